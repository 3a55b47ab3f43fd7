"""The trainer's feed on a real Redis."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import torch
from containers import LIMIT_BYTES, RUN, producer, producing, spec_of

from myna.errors import FeedError
from myna.feed.payload import from_bytes, to_bytes
from myna.feed.redis.container import Container
from myna.feed.redis.errors import RunDoneError
from myna.feed.redis.feed import AHEAD, RedisFeed
from myna.samples import Batch


def batch_of(number: int) -> Batch:
    one = torch.ones(1, dtype=torch.int64)
    features = torch.randn(1, 500, 10, generator=torch.Generator().manual_seed(number)).half().float()
    return Batch((f"id{number}",), features, 500 * one, one[None], one, torch.ones(1), 5.0)


def payload(number: int) -> bytes:
    return to_bytes(batch_of(number))


def feed_of(server, total: int = 30, **options) -> RedisFeed:
    options.setdefault("start", 0)
    return RedisFeed(server.url, RUN, spec_of(total), limit_bytes=LIMIT_BYTES, patience_seconds=20.0, **options)


def wait_until(condition, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_batches_arrive_before_they_are_asked_for_and_go_when_used(redis_server):
    with feed_of(redis_server) as feed, producing(redis_server.url, payload=payload):
        for number in range(10):
            assert to_bytes(feed.take(number)) == payload(number)
        wait_until(lambda: len(feed._batches) == AHEAD)
        container = Container(redis_server.url, RUN)
        wait_until(lambda: container.status().number == 9)  # the one in hand stays, in case the trainer is killed
        began = time.monotonic()
        feed.take(10)
        assert time.monotonic() - began < 0.1
        container.close()


def test_heartbeats_tell_how_it_goes_and_keep_the_run(redis_server):
    with feed_of(redis_server, lease_seconds=0.4) as feed:
        container = producer(redis_server.url)
        wait_until(lambda: container.status().trainer.wait_share is not None)
        with pytest.raises(FeedError, match="has a trainer already"):
            feed_of(redis_server)
        threading.Timer(0.8, lambda: container.put(container.claim(1), payload(0))).start()
        feed.take(0)
        assert 0.6 < feed.waited_seconds < 2.0
        wait_until(lambda: container.status().trainer.taken == 1)
        assert container.status().trainer.wait_share > 0
        container.close()


def test_a_trainer_without_producers_says_how_to_start_one(redis_server, caplog, monkeypatch):
    monkeypatch.setattr("myna.feed.redis.feed.LONELY_SECONDS", 0.3)
    caplog.set_level(logging.WARNING)
    with feed_of(redis_server) as feed:

        def produce_later() -> None:
            time.sleep(1.2)
            container = producer(redis_server.url)
            container.put(container.claim(1), payload(0))
            container.close()

        thread = threading.Thread(target=produce_later)
        thread.start()
        feed.take(0)
        thread.join()
    said = [record.getMessage() for record in caplog.records]
    expected = f"myna feed --redis redis://127.0.0.1:{redis_server.port}/0 --run run-1 --db CATALOG"
    assert [expected in line for line in said] == [True]


def test_the_last_batch_sends_producers_home_unless_the_trainer_failed(redis_server):
    with pytest.raises(RuntimeError), feed_of(redis_server, 3) as feed, producing(redis_server.url, payload=payload):
        for number in range(3):
            feed.take(number)
        raise RuntimeError("out of memory")
    assert not producer(redis_server.url).status().is_done
    with feed_of(redis_server, 3, start=2) as feed, producing(redis_server.url, payload=payload):
        feed.take(2)
    container = producer(redis_server.url)
    with pytest.raises(RunDoneError):
        container.claim(0)
    container.close()


def test_a_run_that_ends_early_sends_producers_home(redis_server):
    with feed_of(redis_server, 30) as feed, producing(redis_server.url, payload=payload):
        feed.take(0)
        feed.finish()
    container = producer(redis_server.url)
    with pytest.raises(RunDoneError):
        container.claim(0)
    container.close()


def test_a_lost_server_stops_the_trainer_in_words_when_patience_ends(redis_server):
    feed = RedisFeed(redis_server.url, RUN, spec_of(), start=0, limit_bytes=LIMIT_BYTES, patience_seconds=0.5)
    redis_server.kill()
    with pytest.raises(FeedError, match="cannot be reached since"):
        feed.take(0)
    began = time.monotonic()
    feed.close()
    assert time.monotonic() - began < 3
    redis_server.start()


def test_a_restart_in_the_middle_is_not_noticed_in_what_is_taken(redis_server):
    with feed_of(redis_server, 40) as feed, producing(redis_server.url, 2, payload=payload):
        for number in range(40):
            if number in (10, 25):
                redis_server.restart()
            assert feed.take(number).utterance_ids == (f"id{number}",)


def test_bytes_that_are_no_batch_end_the_trainer(redis_server):
    with feed_of(redis_server) as feed:
        container = producer(redis_server.url)
        container.put(container.claim(1), b"no batch")
        with pytest.raises(FeedError, match="bytes that are none"):
            feed.take(0)
        container.close()


def test_numbers_that_are_used_are_refused(redis_server):
    with feed_of(redis_server) as feed, producing(redis_server.url, payload=payload):
        feed.take(5)
        assert from_bytes(payload(6)).utterance_ids == feed.take(6).utterance_ids
        with pytest.raises(FeedError, match="batch 3 is used"):
            feed.take(3)
