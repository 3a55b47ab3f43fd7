"""Producers on a real Ray of this host, and what is said where there is none."""

from __future__ import annotations

import sys
import threading

import pytest
from redis_server import RedisServer
from rich.console import Console
from tiny_runs import tiny_work

from myna.errors import ConfigError, MissingExtraError
from myna.feed.payload import to_bytes
from myna.feed.redis.feed import RedisFeed
from myna.producer import ray_engine
from myna.producer.ray_engine import run_on_ray
from myna.producer.run import ProducerReport


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"myna\[ray\]"):
        run_on_ray("redis://localhost", "run", db="catalog.db")


def test_a_server_that_only_this_host_reaches_is_refused(monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "ray", object())
    with pytest.raises(ConfigError, match="a Redis that other hosts reach"):
        run_on_ray("unix:///tmp/redis.sock", "run", db="catalog.db")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_producers_on_ray_make_the_trainers_bytes(tone_catalog, monkeypatch, tmp_path, redis_server: RedisServer):
    monkeypatch.setenv("HOME", str(tmp_path))  # it keeps a token there
    work, spec = tiny_work(tone_catalog)
    reports: list[ProducerReport] = []

    def produce() -> None:
        quiet = Console(quiet=True)
        reports.append(run_on_ray(redis_server.url, "run", db=str(tone_catalog), processes=2, console=quiet))

    thread = threading.Thread(target=produce)
    thread.start()
    with RedisFeed(redis_server.url, "run", spec, start=0, limit_bytes=32_000_000) as feed:
        for number in range(spec.total):
            assert to_bytes(feed.take(number)) == to_bytes(work.make(number))
    thread.join(60)
    assert (reports[0].is_finished, reports[0].batches) == (True, spec.total)
