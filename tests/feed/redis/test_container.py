"""The container between producers and a trainer, on a real Redis."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from containers import LIMIT_BYTES, RUN, payload_of, process, produce, producer, producing, spec_of, take_all, trainer
from redis_server import MemoryWatch, RedisServer

from myna.errors import FeedError
from myna.feed.redis import scripts
from myna.feed.redis.container import Container
from myna.feed.redis.errors import RunDoneError, RunGoneError

PREFIX = f"myna:{{{RUN}}}:"


def megabytes_of(number: int) -> bytes:
    return payload_of(number, 100_000, 3_000_000)


def put_megabytes(url: str) -> None:
    produce(url, payload=megabytes_of)


def claim_and_stall(url: str) -> None:
    """A producer that has room reserved for its batch and then never sends it."""
    container = producer(url)
    number = container.claim(10)
    scripts.run(container._link.client, "reserve", PREFIX, container.spec_id, container.identity, number, 1_000_000)
    time.sleep(600)


def test_batches_come_in_order_exactly_once(redis_server):
    container = trainer(redis_server.url, spec_of(200))
    with producing(redis_server.url, 3) as made:
        take_all(container, range(200))
        container.close(finished=True)
    assert sorted(made) == list(range(200))


def test_two_ranks_take_their_own(redis_server):
    spec = spec_of(60, world_size=2)
    ranks = [trainer(redis_server.url, spec, start=rank, rank=rank) for rank in range(2)]
    with producing(redis_server.url, 2):
        threads = [threading.Thread(target=take_all, args=(ranks[rank], range(rank, 60, 2))) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        status = ranks[0].status()
        assert (status.number, status.used_bytes) == (60, 0)
        for container in reversed(ranks):
            container.close(finished=True)


def test_memory_never_exceeds_the_limit(redis_server):
    """Variable batches of up to a tenth of the limit, three processes, and a trainer that is slow at first."""
    container = trainer(redis_server.url, spec_of(80))
    url, total = redis_server.url, 80
    with contextlib.ExitStack() as opened:
        watch = opened.enter_context(MemoryWatch(redis_server))
        for _ in range(3):
            opened.enter_context(process(put_megabytes, url))
        until, filled = time.monotonic() + 30, container.status()
        while not (filled.is_full and filled.ready_bytes > LIMIT_BYTES / 3) and time.monotonic() < until:
            time.sleep(0.05)
            filled = container.status()
        take_all(container, range(total), megabytes_of)
        container.close(finished=True)
    assert filled.is_full
    assert filled.ready_bytes > LIMIT_BYTES / 3  # the room is used, though it is a small one for such batches
    assert watch.samples > 100
    assert watch.highest <= LIMIT_BYTES


@pytest.mark.parametrize("size", [100, 5_000, 32_768, 262_135, 1_000_000, 1_048_560, 1_048_576, 3_333_333, 9_000_000])
def test_what_a_batch_is_charged_covers_what_it_takes(redis_server, size):
    container = trainer(redis_server.url, spec_of(), limit_bytes=64_000_000)
    maker = producer(redis_server.url)
    before = redis_server.used_memory()
    maker.put(maker.claim(1), bytes(size))
    time.sleep(0.01)
    taken = redis_server.client.memory_usage(f"{PREFIX}b:{spec_of().spec_id}:0")
    charged = container.status().used_bytes
    assert taken <= charged <= 1.27 * taken + 8192
    # The buffer that received it is gone as well; what else grew are a few entries and connections.
    assert redis_server.used_memory() - before <= charged + 400_000
    container.release(1)
    assert container.status().used_bytes == 0
    for each in (container, maker):
        each.close()


def test_putting_twice_changes_nothing(redis_server):
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    assert maker.claim(1) == 0
    assert maker.put(0, payload_of(0))
    once = container.status()
    assert maker.put(0, payload_of(0))
    assert maker._send(maker._link.client, 0, payload_of(0))
    assert container.status().used_bytes == once.used_bytes
    assert container.take(0, 1) == payload_of(0)
    container.release(1)
    assert maker.put(0, payload_of(0))  # the trainer is past it
    assert container.status().used_bytes == 0
    assert list(redis_server.client.scan_iter(f"{PREFIX}b:*")) == []
    for each in (container, maker):
        each.close()


def test_a_claim_whose_reply_was_lost_is_given_again(redis_server):
    container, maker, other = trainer(redis_server.url, spec_of()), *(producer(redis_server.url) for _ in range(2))
    assert [maker.claim(1), maker.claim(1), other.claim(1), maker.claim(1)] == [0, 0, 1, 0]
    maker.put(0, payload_of(0))
    assert maker.claim(1) == 2
    for each in (container, maker, other):
        each.close()


def test_a_slow_producer_loses_its_lease_and_does_no_harm(redis_server):
    container = trainer(redis_server.url, spec_of(), lease_seconds=0.3)
    slow, other = producer(redis_server.url), producer(redis_server.url)
    assert slow.claim(1) == 0
    began = time.monotonic()
    assert other.claim(1) == 1
    assert other.put(1, payload_of(1))
    for _ in range(3):
        assert slow.renew() == 0
        time.sleep(0.15)
    while (number := other.claim(2)) != 0:  # waits for no fixed time: the lease's end wakes it
        assert number is not None
        other.put(number, payload_of(number))
    assert 0.3 < time.monotonic() - began < 2
    assert slow.put(0, b"late")
    assert other.put(0, payload_of(0))
    assert slow.put(0, b"later still")
    assert container.take(0, 1) == payload_of(0)
    for each in (container, slow, other):
        each.close()


def test_a_waiting_producer_takes_over_when_a_lease_ends(redis_server):
    container = trainer(redis_server.url, spec_of(1), lease_seconds=0.4)
    gone, other = producer(redis_server.url), producer(redis_server.url)
    assert gone.claim(1) == 0
    began = time.monotonic()
    assert other.claim(5) == 0
    assert 0.2 < time.monotonic() - began < 1.0
    for each in (container, gone, other):
        each.close()


def test_a_producer_that_comes_late_with_an_unclaimed_batch_is_welcome(redis_server):
    container = trainer(redis_server.url, spec_of(), lease_seconds=0.1)
    slow = producer(redis_server.url)
    assert slow.claim(1) == 0
    time.sleep(0.15)
    assert slow.put(0, payload_of(0))
    assert container.take(0, 1) == payload_of(0)
    for each in (container, slow):
        each.close()


def test_a_killed_producer_leaves_neither_a_gap_nor_bytes(redis_server):
    container = trainer(redis_server.url, spec_of(20), lease_seconds=1.0)
    with process(claim_and_stall, redis_server.url) as stalled:
        until = time.monotonic() + 20
        while container.status().used_bytes == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert container.status().used_bytes > 1_000_000
        stalled.kill()
        with producing(redis_server.url, 2):
            take_all(container, range(20))
            assert container.status().used_bytes == 0
            container.close(finished=True)


def test_a_claim_given_back_goes_to_another_at_once(redis_server):
    container, maker, other = trainer(redis_server.url, spec_of(1)), *(producer(redis_server.url) for _ in range(2))
    assert maker.claim(1) == 0
    assert other.claim(0.05) is None
    threading.Timer(0.1, maker.leave).start()
    began = time.monotonic()
    assert other.claim(5) == 0
    assert time.monotonic() - began < 1.0
    for each in (container, maker, other):
        each.close()


def test_the_trainer_wakes_at_once(redis_server):
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    delays = []
    for number in range(15):
        assert maker.claim(1) == number
        put_at = []

        def put(number=number, put_at=put_at):
            maker.put(number, payload_of(number))
            put_at.append(time.monotonic())

        timer = threading.Timer(0.03, put)
        timer.start()
        assert container.take(number, 5) is not None
        taken_at = time.monotonic()
        timer.join()
        delays.append(taken_at - put_at[0])
        container.release(number + 1)
    print(f"median {1000 * sorted(delays)[7]:.2f} ms after the put returned")
    assert max(delays) < 0.5
    for each in (container, maker):
        each.close()


def test_a_full_container_wakes_producers_at_once(redis_server):
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    number = 0
    while maker.put(maker.claim(0.5) or number, bytes(2_000_000), 0.05) and number < 50:
        number += 1
    held = maker.renew()
    assert held is not None
    assert not maker.put(held, bytes(2_000_000), 0.05)  # still no room, and the claim is kept
    assert maker.renew() == held
    threading.Timer(0.1, container.release, args=(number - 1,)).start()
    began = time.monotonic()
    assert maker.put(held, bytes(2_000_000), 5)
    assert time.monotonic() - began < 0.6
    for each in (container, maker):
        each.close()


def test_a_needed_batch_is_let_in_when_the_container_is_full(redis_server):
    """Its first maker is gone; the others hold batches far ahead for which there is no room."""
    container = trainer(redis_server.url, spec_of(100), limit_bytes=12_000_000, lease_seconds=0.5)
    gone = producer(redis_server.url)
    assert gone.claim(1) == 0
    with producing(redis_server.url, 3, payload=lambda number: payload_of(number, 900_000, 1_000_000)):
        assert container.take(0, 10) is not None
        assert container.status().failure == ""
    for each in (container, gone):
        each.close()


def test_batches_far_ahead_make_way_for_a_needed_one_that_is_larger(redis_server):
    container, maker = trainer(redis_server.url, spec_of(), limit_bytes=16_000_000), producer(redis_server.url)
    large = producer(redis_server.url)
    assert large.claim(1) == 0
    filled = 0
    while (number := maker.claim(0.1)) is not None and maker.put(number, bytes(500_000), 0.1):
        filled += 1
    assert large.put(0, bytes(3_000_000), 1)
    status = container.status()
    assert status.ready_batches < filled + 1
    assert status.used_bytes <= status.budget_bytes
    assert container.take(0, 1) == bytes(3_000_000)
    for each in (container, maker, large):
        each.close()


def test_a_batch_that_never_fits_ends_the_trainer_in_words(redis_server):
    container, maker = trainer(redis_server.url, spec_of(), limit_bytes=8_000_000), producer(redis_server.url)
    maker.claim(1)
    assert not maker.put(0, bytes(5_000_000), 0.1)
    with pytest.raises(FeedError, match=r"batch 0 takes \d+\.\d MB of Redis.*of 8\.0 MB.*feed\.max_memory_gb"):
        container.take(0, 1)
    for each in (container, maker):
        each.close()


def test_a_batch_that_cannot_be_made_ends_the_trainer_in_words(redis_server):
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    for _ in range(3):
        assert maker.claim(1) == 0
        maker.fail(0, "ValueError: expected 80 bins")
    with pytest.raises(FeedError, match="batch 0 could not be made in 3 tries: ValueError: expected 80 bins"):
        container.take(0, 1)
    for each in (container, maker):
        each.close()


def test_payloads_have_a_largest_size(redis_server, monkeypatch):
    monkeypatch.setattr("myna.feed.redis.container.LARGEST_PAYLOAD_BYTES", 1000)
    container, maker = trainer(redis_server.url, spec_of()), producer(redis_server.url)
    with pytest.raises(FeedError, match="batch 0"):
        maker.put(maker.claim(1), bytes(1001))
    for each in (container, maker):
        each.close()


def test_producers_go_home_when_every_batch_was_used(redis_server):
    container, maker = trainer(redis_server.url, spec_of(3)), producer(redis_server.url)
    with producing(redis_server.url):
        take_all(container, range(3))
        container.close(finished=True)
    with pytest.raises(RunDoneError):
        maker.claim(1)
    assert max(redis_server.client.pttl(key) for key in redis_server.client.scan_iter("*")) <= 60_000
    maker.close()


def test_a_producer_waits_for_its_run(redis_server):
    maker = Container(redis_server.url, RUN)
    assert maker.spec(0.05) is None
    with pytest.raises(RunGoneError):
        maker.claim(0)
    opened = []
    timer = threading.Timer(0.1, lambda: opened.append(trainer(redis_server.url, spec_of())))
    timer.start()
    assert maker.spec(10) == spec_of()
    timer.join()
    for each in (*opened, maker):
        each.close()


def test_every_key_has_an_expiry_and_nothing_else_is_touched(redis_server):
    client = redis_server.client
    client.set("somebody's", "data")
    client.set("myna:{run-10}:state", "another run's")
    other = Container(redis_server.url, "run-2")
    other.open(spec_of(7), start=0, limit_bytes=LIMIT_BYTES)
    before = other.status()
    container = trainer(redis_server.url, spec_of(50))
    makers = [producer(redis_server.url) for _ in range(2)]
    for maker in makers:
        maker.report({"made": 0})
        maker.fail(maker.claim(1), "no")
        maker.put(maker.claim(1), payload_of(1))
    makers[0].claim(1)
    container.heartbeat({"taken": 1})
    keys = list(client.scan_iter("myna:{run-1}:*"))
    assert len(keys) >= 10
    assert all(0 < client.pttl(key) <= 3_600_000 for key in keys)
    container.close()
    again = trainer(redis_server.url, spec_of(51))  # another description: all of the old one goes
    assert again.status().ready_batches == 0
    assert client.get("somebody's") == b"data"
    assert client.get("myna:{run-10}:state") == b"another run's"
    assert other.status().spec_id == before.spec_id
    assert again.status().is_shared
    for each in (again, other, *makers):
        each.close()


def test_status_shows_producers_and_trainer(redis_server):
    container, maker = trainer(redis_server.url, spec_of(30)), producer(redis_server.url, producer_id="p1")
    maker.put(maker.claim(1), payload_of(0))
    maker.claim(1)
    maker.report({"made": 1, "audio_seconds_per_second": 12.5, "state": "making"})
    container.heartbeat({"taken": 3, "wait_share": 0.25})
    status = container.status()
    shown = status.producers[0]
    assert (shown.producer_id, shown.made, shown.audio_seconds_per_second, shown.state) == ("p1", 1, 12.5, "making")
    assert shown.claimed == 1
    assert (status.trainer.taken, status.trainer.wait_share) == (3, 0.25)
    assert (status.ready_batches, status.claimed_batches, status.number, status.total) == (1, 1, 0, 30)
    assert status.summary().audio_seconds_per_second == 12.5
    container.release(25)
    assert (container.status().epoch, container.status().step) == (2, 5)
    for each in (container, maker):
        each.close()


@pytest.mark.parametrize("run", ["", "a b", "a{b}", "*", "x" * 101])
def test_names_that_would_reach_other_keys_are_refused(run):
    with pytest.raises(FeedError, match="run's name"):
        Container("redis://127.0.0.1:1/0", run)


def test_a_server_that_evicts_takes_no_batch_away(redis_server):
    container, maker = trainer(redis_server.url, spec_of(2)), producer(redis_server.url)
    maker.put(maker.claim(1), payload_of(0))
    redis_server.client.delete(f"{PREFIX}b:{spec_of(2).spec_id}:0")
    assert container.take(0, 0) is None
    assert container.status().used_bytes == 0
    assert maker.claim(1) == 0
    maker.put(0, payload_of(0))
    assert container.take(0, 1) == payload_of(0)
    for each in (container, maker):
        each.close()


def test_a_server_at_its_own_limit_holds_fewer_batches():
    with RedisServer(maxmemory="20mb") as server:
        container = trainer(server.url, spec_of(40), limit_bytes=1_000_000_000)
        assert container.status().budget_bytes < 20 * 2**20
        with producing(server.url, 3, payload=megabytes_of), MemoryWatch(server) as watch:
            take_all(container, range(40), megabytes_of)
            container.close(finished=True)
        assert watch.highest < 24_000_000


def test_others_may_fill_a_shared_server():
    """Room that was promised is gone when the batch arrives: it waits, and comes when there is room again."""
    with RedisServer(maxmemory="24mb") as server:
        container, maker = trainer(server.url, spec_of(40), limit_bytes=1_000_000_000), producer(server.url)
        others = [f"others' {number}" for number in range(36)]
        for key in others:
            server.client.set(key, bytes(500_000))
        stored = 0
        while (number := maker.claim(0.1)) is not None and maker.put(number, bytes(1_000_000), 0.2):
            stored += 1
        assert stored < 6
        server.client.delete(*others)
        container.heartbeat()
        for _ in range(10):
            maker.claim(1)
            assert maker.put(maker.renew(), bytes(1_000_000), 5)
        assert container.take(0, 1) is not None
        for each in (container, maker):
            each.close()
