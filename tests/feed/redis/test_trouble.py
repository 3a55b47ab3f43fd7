"""The server restarts, forgets, hangs; the network drops: batches still come in order, exactly once."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from containers import RUN, payload_of, producer, producing, spec_of, take_all, trainer
from redis_server import MemoryWatch, Proxy, RedisServer

from myna.errors import FeedError

PREFIX = f"myna:{{{RUN}}}:"


def large(number: int) -> bytes:
    return payload_of(number, 500_000, 2_500_000)


def test_a_server_restarted_empty_loses_nothing(redis_server, caplog):
    container = trainer(redis_server.url, spec_of(90))
    with producing(redis_server.url, 2):
        for first in (0, 30, 60):
            take_all(container, range(first, first + 30))
            if first < 60:
                redis_server.restart()
        container.close(finished=True)
    assert "cannot be reached; waiting" in caplog.text
    assert "published anew from 30" in caplog.text
    assert "is back" in caplog.text


def test_a_rank_behind_the_first_gets_its_batches_after_a_restart(redis_server):
    """Within a step the first rank may be ahead: what it publishes anew begins after what another still needs."""
    spec = spec_of(60, world_size=2)
    first, second = (trainer(redis_server.url, spec, start=rank, rank=rank) for rank in range(2))
    with producing(redis_server.url, 1):
        take_all(first, range(0, 8, 2))
        redis_server.restart()
        first.heartbeat()
        assert first.status().number == 8
        take_all(second, range(1, 8, 2))
    for container in (second, first):
        container.close()


def test_charges_that_a_server_evicted_are_made_up(redis_server):
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    for number in range(3):
        assert maker.put(maker.claim(1), payload_of(number))
    whole = container.status().used_bytes
    redis_server.client.delete(f"{PREFIX}reserved")
    container.release(1)  # what it was charged with is forgotten
    assert container.status().used_bytes == whole
    container.heartbeat()
    assert 0 < container.status().used_bytes < whole
    container.release(3)
    assert container.status().used_bytes == 0
    for each in (container, maker):
        each.close()


def test_a_server_that_is_away_for_a_while_is_waited_for(redis_server):
    container = trainer(redis_server.url, spec_of(40))
    with producing(redis_server.url, 2):
        take_all(container, range(20))
        redis_server.kill()
        threading.Timer(1.0, redis_server.start).start()
        take_all(container, range(20, 40))
        container.close(finished=True)


def test_patience_ends(redis_server):
    container = trainer(redis_server.url, spec_of(), patience_seconds=0.5)
    redis_server.kill()
    began = time.monotonic()
    with pytest.raises(FeedError, match="cannot be reached since"):
        container.take(0, 30)
    assert time.monotonic() - began < 5
    container.close()
    redis_server.start()


def test_a_server_restarted_from_an_old_snapshot(redis_server):
    """It remembers claims of before, batches that were used, and none that came later."""
    container = trainer(redis_server.url, spec_of(80), lease_seconds=1.0)
    with producing(redis_server.url, 2):
        take_all(container, range(10))
        redis_server.client.save()
        take_all(container, range(10, 40))
        redis_server.restart()
        assert redis_server.client.exists(f"{PREFIX}state")
        take_all(container, range(40, 80))
        assert container.status().used_bytes == 0
        container.close(finished=True)


def test_connections_cut_in_the_middle_of_an_answer(redis_server):
    proxy = Proxy(redis_server.port)
    container = trainer(proxy.url, spec_of(60), limit_bytes=64_000_000)
    stop = threading.Event()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        while not stop.wait(0.05 * 1.1**cuts):  # ever rarer, so that a busy machine gets through too
            cuts += 1
            if cuts % 2:
                proxy.cut_after_bytes = 3 * cuts
            else:
                proxy.cut()

    saboteur = threading.Thread(target=cut)
    with producing(proxy.url, 2, payload=large):
        saboteur.start()
        take_all(container, range(60), large)
        stop.set()
        saboteur.join()
        assert container.status().used_bytes == 0
        container.close(finished=True)
    assert cuts >= 3
    proxy.close()


def test_a_put_whose_reply_is_lost_counts_once(redis_server):
    proxy = Proxy(redis_server.port)
    container, maker = trainer(redis_server.url, spec_of()), producer(proxy.url)
    assert maker.claim(1) == 0
    once = threading.Event()
    send = maker._send

    def cut_reply(client, number, payload):
        if not once.is_set():
            once.set()
            proxy.cut_after_bytes = 7
        return send(client, number, payload)

    maker._send = cut_reply
    assert maker.put(0, payload_of(0))
    assert container.status().ready_batches == 1
    assert container.take(0, 1) == payload_of(0)
    container.release(1)
    assert container.status().used_bytes == 0
    for each in (container, maker, proxy):
        each.close()


def test_a_server_that_stands_still_is_waited_for(redis_server, monkeypatch):
    monkeypatch.setattr("myna.feed.redis.connection.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("myna.feed.redis.connection.LONGEST_WAIT_SECONDS", 0.3)
    monkeypatch.setattr("myna.feed.redis.container.LONGEST_WAIT_SECONDS", 0.3)
    container = trainer(redis_server.url, spec_of(40), lease_seconds=1.0)
    with producing(redis_server.url, 2):
        take_all(container, range(20))
        redis_server.pause()
        threading.Timer(1.5, redis_server.resume).start()
        take_all(container, range(20, 40))
        container.close(finished=True)


def test_a_run_that_expired_is_published_anew(redis_server):
    container, maker = trainer(redis_server.url, spec_of(20), expire_seconds=0.3), producer(redis_server.url)
    maker.put(maker.claim(1), payload_of(0))
    time.sleep(0.5)
    assert list(redis_server.client.scan_iter(f"{PREFIX}b:*")) == []
    with producing(redis_server.url, 1):
        take_all(container, range(20))
        container.close(finished=True)
    maker.close()


def test_heartbeats_keep_what_is_ready(redis_server):
    container, maker = trainer(redis_server.url, spec_of(20), expire_seconds=0.6), producer(redis_server.url)
    maker.put(maker.claim(1), payload_of(0))
    for _ in range(8):
        time.sleep(0.2)
        container.heartbeat()
    assert container.take(0, 0) == payload_of(0)
    for each in (container, maker):
        each.close()


def test_memory_stays_below_the_limit_while_everything_breaks(caplog):
    """Cut connections leave no buffers behind that nobody counts."""
    caplog.set_level(logging.ERROR)
    limit = 48_000_000
    with RedisServer() as server:
        proxy = Proxy(server.port)
        container = trainer(server.url, spec_of(60), limit_bytes=limit, lease_seconds=1.0)
        stop = threading.Event()

        def cut() -> None:
            while not stop.wait(0.1):
                proxy.cut()

        saboteur = threading.Thread(target=cut)
        saboteur.start()
        try:
            with MemoryWatch(server) as watch, producing(proxy.url, 4, payload=large):
                time.sleep(1.0)
                take_all(container, range(60), large)
                container.close(finished=True)
        finally:
            stop.set()
            saboteur.join()
            proxy.close()
        assert watch.highest <= limit
