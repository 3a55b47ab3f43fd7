"""Headless Chromium by its own protocol over a pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass
class Page:
    """A tab, and what went wrong in it."""

    browser: Browser
    session: str
    errors: list[str] = field(default_factory=list)  # console errors, exceptions, what the browser refused
    requests: list[str] = field(default_factory=list)  # addresses other than data: ones

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self.browser.call(method, arguments, self.session)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, path: Path, width: int, *, dark: bool = False, media: str = "") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        loaded = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        self.evaluate(loaded)

    def picture(self, path: Path, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def heard(self, event: dict[str, Any]) -> None:
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(str(told["args"]))
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent" and not told["request"]["url"].startswith("data:"):
            self.requests.append(told["request"]["url"])


class Browser:
    """A running Chromium."""

    def __init__(self, read_from: int, write_to: int) -> None:
        self._read, self._write = os.fdopen(read_from, "rb", buffering=0), os.fdopen(write_to, "wb", buffering=0)
        self._buffer = b""
        self._number = 0
        self._pages: dict[str, Page] = {}

    def call(self, method: str, arguments: dict[str, Any], session: str = "") -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": arguments}
        self._write.write(json.dumps(request | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (told := self._next()).get("id") != self._number:
            if told.get("sessionId") in self._pages and "method" in told:
                self._pages[told["sessionId"]].heard(told)
        assert "error" not in told, told["error"]
        return told["result"]

    def page(self) -> Page:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        return page

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self.call("Browser.close", {})
        self._read.close()
        self._write.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = self._read.read(1 << 20)
            if not more:
                raise EOFError("Chromium has ended")
            self._buffer += more
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own; a machine without one skips, but not where CI is set."""
    binary = next((found for name in NAMES if (found := shutil.which(name))), None)
    if binary is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Chromium: install the package chromium")
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    far = [fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (theirs_in, theirs_out)]  # 3 and 4 are their new names
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        options += ["--autoplay-policy=no-user-gesture-required", "--mute-audio", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{far[0]} 4>&{far[1]}', binary, *options],
            pass_fds=far, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for number in (theirs_in, theirs_out, *far):
            os.close(number)
        browser = Browser(ours_in, ours_out)
        try:
            yield browser
        finally:
            browser.close()
            process.wait(timeout=20)
