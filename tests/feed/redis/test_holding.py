"""Who holds a run: one trainer at a time, and the next one when it is gone."""

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest
from containers import LIMIT_BYTES, RUN, payload_of, process, producer, producing, spec_of, take_all, trainer

from myna.errors import FeedError
from myna.feed.redis.errors import RunGoneError
from myna.feed.redis.holding import is_running

TRAINER = f"myna:{{{RUN}}}:trainer"


def hold(url: str, total: int, take: int) -> None:
    """A trainer that takes some batches, not releasing the last, and then stands still."""
    container = trainer(url, spec_of(total))
    for number in range(take):
        assert container.take(number, 20) is not None
        container.release(number)
    container.heartbeat({"taken": take})
    time.sleep(600)


def wait_for_heartbeat(server) -> None:
    until = time.monotonic() + 30
    while not server.client.hget(TRAINER, "seen"):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_second_trainer_is_refused_while_the_first_lives(redis_server):
    first = trainer(redis_server.url, spec_of())
    with pytest.raises(FeedError, match=rf"run-1 has a trainer already: process {os.getpid()} on .*since 20"):
        trainer(redis_server.url, spec_of())
    first.close()
    trainer(redis_server.url, spec_of()).close()


def test_a_killed_trainer_is_followed_at_once_and_what_is_ready_stays(redis_server):
    with producing(redis_server.url, 2), process(hold, redis_server.url, 60, 10) as held:
        wait_for_heartbeat(redis_server)
        with pytest.raises(FeedError, match=f"process {held.pid}"):
            trainer(redis_server.url, spec_of(60))
        time.sleep(0.3)
        held.kill()
        held.join()
        began = time.monotonic()
        container = trainer(redis_server.url, spec_of(60), start=6)  # its checkpoint was older
        assert time.monotonic() - began < 1.0
        status = container.status()
        assert status.number == 6
        assert status.ready_batches >= 40  # 10 to 59 were made, 6 to 8 had been released
        take_all(container, range(6, 60))
        container.close(finished=True)


def test_a_trainer_of_another_host_is_followed_when_its_lock_runs_out(redis_server):
    first = trainer(redis_server.url, spec_of(), lease_seconds=0.6)
    redis_server.client.hset(TRAINER, mapping={"machine": "elsewhere", "host": "far", "pid": 1})
    began = time.monotonic()
    second = trainer(redis_server.url, spec_of())
    assert 0.3 < time.monotonic() - began < 2.0
    for call in (lambda: first.release(1), lambda: first.take(0, 0), first.heartbeat):
        with pytest.raises(FeedError, match="taken over by another trainer"):
            call()
    assert second.take(0, 0) is None
    for each in (first, second):
        each.close()


def test_a_trainer_of_another_host_that_renews_its_lock_stays(redis_server):
    first = trainer(redis_server.url, spec_of(), lease_seconds=0.6)
    redis_server.client.hset(TRAINER, mapping={"machine": "elsewhere", "host": "far", "pid": 1})
    redis_server.client.pexpire(TRAINER, 60_000)

    def renewed():
        time.sleep(0.3)
        first.heartbeat()

    redis_server.client.pexpire(TRAINER, 600)
    thread = threading.Thread(target=renewed)
    thread.start()
    with pytest.raises(FeedError, match="process 1 on far"):
        trainer(redis_server.url, spec_of())
    thread.join()
    first.close()


def test_another_description_replaces_everything(redis_server):
    first = trainer(redis_server.url, spec_of(10, seed=1))
    maker = producer(redis_server.url)
    maker.put(maker.claim(1), payload_of(0))
    assert maker.claim(1) == 1
    first.close()
    second = trainer(redis_server.url, spec_of(10, seed=2))
    with pytest.raises(RunGoneError):
        maker.put(1, payload_of(1))
    assert second.status().used_bytes == 0
    assert list(redis_server.client.scan_iter("*:b:*")) == []
    assert maker.spec(1) == spec_of(10, seed=2)
    assert maker.claim(1) == 0
    for each in (second, maker):
        each.close()


def test_a_trainer_finds_a_batch_again_that_was_taken_but_not_released(redis_server):
    first, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    maker.put(maker.claim(1), payload_of(0))
    assert first.take(0, 1) == payload_of(0)
    first.close()
    second = trainer(redis_server.url, spec_of())
    assert second.take(0, 0) == payload_of(0)
    for each in (second, maker):
        each.close()


def test_a_resumed_trainer_may_start_past_what_is_ready(redis_server):
    first, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    for number in range(4):
        maker.put(maker.claim(1), payload_of(number))
    first.close()
    second = trainer(redis_server.url, spec_of(), start=50, limit_bytes=LIMIT_BYTES)
    assert second.status().ready_batches == 0
    assert second.status().used_bytes == 0
    assert maker.claim(1) == 50
    for each in (second, maker):
        each.close()


def test_a_process_is_told_from_a_later_one_with_its_number():
    began = psutil.Process().create_time()
    assert is_running(os.getpid(), began)
    assert not is_running(os.getpid(), began - 100)
    assert not is_running(2**22 + 1, began)
