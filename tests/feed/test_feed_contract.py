"""What holds for a feed wherever its batches wait: one test for both homes."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from pathlib import Path

import psutil
import pytest
import torch
from clips import SECONDS, SmallProcessor, write_clips
from redis_server import RedisServer

from myna.audio.augment.chain import Chain
from myna.audio.augment.speed import Speed
from myna.feed.epoch import BatchBudget
from myna.feed.local import LocalFeed
from myna.feed.payload import to_bytes
from myna.feed.redis.container import Container
from myna.feed.redis.errors import RunDoneError
from myna.feed.redis.feed import RedisFeed
from myna.feed.spec import FeedSpec
from myna.feed.work import TrainingBatches
from myna.samples import Utterance

LIMIT_BYTES = 32_000_000


def work_of(utterances: list[Utterance], parts: int = 1) -> TrainingBatches:
    chain = Chain([Speed(probability=0.5)])
    return TrainingBatches(utterances, SmallProcessor(), BatchBudget(2.4), augment=chain, seed=5, parts=parts)


def spec_of(work: TrainingBatches, total: int) -> FeedSpec:
    return FeedSpec(
        dataset_version="v1",
        audio="original",
        splits=("train",),
        max_duration_seconds=20.0,
        step_seconds=work.budget.step_seconds,
        num_buckets=work.budget.num_buckets,
        seed=work.seed,
        parts=work.parts,
        world_size=work.parts,
        steps_per_epoch=work.steps_per_epoch,
        total=total,
        by_shard=False,
        language="en",
        augment=[],
        processor_files={},
        fingerprint=work.fingerprint(),
        versions={},
    )


def produce(url: str, work: TrainingBatches) -> None:
    torch.set_num_threads(1)
    container = Container(url, "contract")
    with contextlib.suppress(RunDoneError):
        while container.spec(60) is not None:
            while (number := container.claim(60)) is not None:
                while not container.put(number, to_bytes(work.make(number)), 60):
                    pass
    container.close()


class Homes:
    """Feeds of either home over the same work; `feeds` is one for each rank."""

    def __init__(self, kind: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.kind, self.folder, self.stack = kind, folder, stack
        self.utterances = write_clips(folder)
        self.server = stack.enter_context(RedisServer()) if kind == "redis" else None

    def feeds(self, total_epochs: int = 2, *, start: int = 0, ranks: int = 1):
        work = work_of(self.utterances, ranks)
        total = total_epochs * work.per_epoch
        if self.server is None:
            made = [
                LocalFeed(work, num_workers=2, total=total, world_size=ranks, limit_bytes=LIMIT_BYTES)
                for _ in range(ranks)
            ]
        else:
            context = multiprocessing.get_context("fork")
            for _ in range(2):  # before the feed starts its threads
                process = context.Process(target=produce, args=(self.server.url, work), daemon=True)
                process.start()
                self.stack.callback(self._end, process)
            spec = spec_of(work, total)
            made = [
                RedisFeed(self.server.url, "contract", spec, start=start + rank, limit_bytes=LIMIT_BYTES, rank=rank)
                for rank in range(ranks)
            ]
        for feed in reversed(made):
            self.stack.callback(feed.close)
        return work, total, made

    @staticmethod
    def _end(process) -> None:
        process.kill()
        process.join()
        process.close()


@pytest.fixture(params=["local", "redis"])
def homes(request, tmp_path):
    with contextlib.ExitStack() as stack:
        yield Homes(request.param, tmp_path, stack)


def test_the_same_bytes_in_order_past_the_end_of_an_epoch(homes):
    work, total, (feed,) = homes.feeds()
    assert total > work.per_epoch
    for number in range(total):
        assert to_bytes(feed.take(number)) == to_bytes(work.make(number))


def test_every_utterance_exactly_once_an_epoch(homes):
    work, total, (feed,) = homes.feeds()
    for epoch in range(total // work.per_epoch):
        numbers = range(epoch * work.per_epoch, (epoch + 1) * work.per_epoch)
        names = [name for number in numbers for name in feed.take(number).utterance_ids]
        assert sorted(names) == [f"id{number}" for number in range(len(SECONDS))]


def test_a_run_may_start_in_the_middle(homes):
    work, total, (feed,) = homes.feeds(start=2)
    for number in range(2, total):
        assert to_bytes(feed.take(number)) == to_bytes(work.make(number))


def test_a_feed_may_be_asked_for_a_later_number(homes):
    work, total, (feed,) = homes.feeds()
    for number in (0, 2, total - 1):
        assert to_bytes(feed.take(number)) == to_bytes(work.make(number))


def test_two_ranks_get_their_own(homes):
    work, total, feeds = homes.feeds(ranks=2)
    taken: dict[int, bytes] = {}

    def take(rank: int) -> None:
        for number in range(rank, total, 2):
            taken[number] = to_bytes(feeds[rank].take(number))

    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert taken == {number: to_bytes(work.make(number)) for number in range(total)}


def test_a_broken_file_is_named_and_the_rest_comes(homes):
    broken = homes.folder / "3.wav"
    broken.write_bytes(b"no sound")
    work, _, (feed,) = homes.feeds(total_epochs=1)
    taken = [feed.take(number) for number in range(work.per_epoch)]
    failures = [failure for batch in taken for failure in batch.failures]
    assert [failure.audio_path for failure in failures] == [str(broken)]
    names = sorted(name for batch in taken if batch.weights.any() for name in batch.utterance_ids)
    assert names == ["id0", "id1", "id2", "id4", "id5", "id6"]


def test_status_is_sane(homes):
    _, total, (feed,) = homes.feeds()
    feed.take(0)
    status = feed.status()
    assert status.limit_bytes == LIMIT_BYTES
    assert 0 <= status.ready_batches <= total
    assert 0 <= status.ready_bytes <= LIMIT_BYTES
    assert status.producers in (1, 2)


def test_close_leaves_no_process_and_may_be_called_twice(homes):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    _, _, (feed,) = homes.feeds()
    feed.take(0)
    feed.close()
    feed.close()
    if homes.kind == "local":  # producers of a container are not the feed's own
        assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed-")]
