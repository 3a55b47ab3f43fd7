from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import SECONDS, SmallProcessor, write_clips

from myna.audio.augment.chain import Chain
from myna.audio.augment.speed import Speed
from myna.errors import FeedError
from myna.feed.epoch import BatchBudget
from myna.feed.local import LocalFeed
from myna.feed.payload import to_bytes
from myna.feed.work import TrainingBatches
from myna.samples import Batch


class Noisy:
    """Makes batches of a known size; some numbers kill their process."""

    def __init__(self, deadly: set[int] | None = None, marker: Path | None = None) -> None:
        self.deadly = deadly or set()
        self.marker = marker  # a file that is there once the deadly number has killed

    def make(self, number: int) -> Batch:
        if number in self.deadly and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        one = torch.ones(1, dtype=torch.int64)
        features = torch.randn(1, 5000, 10, generator=torch.Generator().manual_seed(number)).half().float()
        return Batch((f"id{number}",), features, 5000 * one, one[None], one, torch.ones(1), 50.0)

    def audio_seconds(self, number: int) -> float:
        return 50.0


def work_of(tmp_path, **rest) -> TrainingBatches:
    return TrainingBatches(
        write_clips(tmp_path),
        SmallProcessor(),
        BatchBudget(2.4),
        augment=Chain([Speed(probability=0.5)]),
        seed=5,
        **rest,
    )


def test_processes_make_the_same_bytes_over_the_end_of_an_epoch(tmp_path):
    work = work_of(tmp_path)
    total = 2 * work.per_epoch + 1
    with LocalFeed(work, num_workers=0, total=total) as alone, LocalFeed(work, num_workers=2, total=total) as helped:
        for number in range(total):
            assert to_bytes(alone.take(number)) == to_bytes(helped.take(number))


def test_each_epoch_is_planned_once(tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr("myna.feed.local.MAX_AHEAD", 2)  # less than one of these small epochs
    make = TrainingBatches._make_plan
    monkeypatch.setattr(TrainingBatches, "_make_plan", lambda work, epoch: planned.append(epoch) or make(work, epoch))
    work = work_of(tmp_path)
    total = 3 * work.per_epoch
    with LocalFeed(work, num_workers=1, total=total) as feed:
        for number in range(total):
            feed.take(number)
    assert planned == [0, 1, 2]


def test_every_utterance_once_an_epoch(tmp_path):
    work = work_of(tmp_path, parts=2)
    for epoch in (0, 3):
        numbers = range(epoch * work.per_epoch, (epoch + 1) * work.per_epoch)
        batches = [work.make(number) for number in numbers]
        names = [name for batch in batches if batch.weights.any() for name in batch.utterance_ids]
        assert sorted(names) == [f"id{number}" for number in range(len(SECONDS))]


def test_a_run_may_begin_anywhere(tmp_path):
    work = work_of(tmp_path)
    with LocalFeed(work, num_workers=1, total=4) as feed:
        for number in (2, 3, 1):
            assert to_bytes(feed.take(number)) == to_bytes(work.make(number))


def test_what_waits_stays_under_the_limit():
    size = len(to_bytes(Noisy().make(0)))
    with LocalFeed(Noisy(), num_workers=2, total=40, limit_bytes=5 * size) as feed:
        most = 0
        for number in range(40):
            feed.take(number)
            deadline = time.monotonic() + 0.02
            while time.monotonic() < deadline:
                most = max(most, feed.status().ready_bytes)
    assert 2 * size <= most <= 5 * size


def test_a_limit_below_one_batch_still_gives_them_one_by_one():
    with LocalFeed(Noisy(), num_workers=2, total=6, limit_bytes=1) as feed:
        assert [feed.take(number).utterance_ids[0] for number in range(6)] == [f"id{number}" for number in range(6)]


def test_a_killed_process_costs_nothing(tmp_path, caplog):
    deadly = Noisy({3}, tmp_path / "killed")
    with caplog.at_level(logging.WARNING), LocalFeed(deadly, num_workers=2, total=8) as feed:
        for number in range(8):
            assert torch.equal(feed.take(number).features, Noisy().make(number).features)
    assert "died" in caplog.text


def test_a_process_killed_while_nobody_waits_costs_nothing(caplog):
    size = len(to_bytes(Noisy().make(0)))
    with caplog.at_level(logging.WARNING), LocalFeed(Noisy(), num_workers=2, total=20, limit_bytes=4 * size) as feed:
        feed.take(0)
        until = time.monotonic() + 10
        while feed.status().ready_batches < 3 and time.monotonic() < until:
            time.sleep(0.01)
        victim = multiprocessing.active_children()[-1]
        victim.kill()
        victim.join()
        assert [feed.take(number).utterance_ids[0] for number in range(1, 20)] == [f"id{n}" for n in range(1, 20)]
    assert "died" in caplog.text


def test_processes_killed_at_any_moment_cost_nothing():
    """In the middle of handing a batch over, too: what is half written must not be waited for."""
    rng = np.random.default_rng(0)
    with LocalFeed(Noisy(), num_workers=2, total=60) as feed:
        for number in range(60):
            if number % 4 == 0:
                children = multiprocessing.active_children()  # not Python's own, such as its resource tracker
                if children:
                    time.sleep(rng.uniform(0, 0.02))
                    children[rng.integers(len(children))].kill()
            assert torch.equal(feed.take(number).features, Noisy().make(number).features)


def test_a_signal_to_the_whole_group_leaves_them_at_work(tmp_path):
    work = work_of(tmp_path)
    with LocalFeed(work, num_workers=2, total=4) as feed:
        feed.take(0)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGTERM)
            os.kill(child.pid, signal.SIGINT)
        before = {child.pid for child in multiprocessing.active_children()}
        assert to_bytes(feed.take(1)) == to_bytes(work.make(1))
        assert {child.pid for child in multiprocessing.active_children()} == before


def test_a_batch_that_always_kills_is_named():
    with (
        LocalFeed(Noisy({1}), num_workers=1, total=4) as feed,
        pytest.raises(FeedError, match=r"batch [01].*dataloader_num_workers"),
    ):
        for number in range(4):
            feed.take(number)


def test_no_process_outlives_the_feed(tmp_path):
    before = {child.pid for child in multiprocessing.active_children()}
    with LocalFeed(work_of(tmp_path), num_workers=2, total=4) as feed:
        feed.take(0)
        assert len({child.pid for child in multiprocessing.active_children()} - before) == 2
    assert {child.pid for child in multiprocessing.active_children()} <= before
