from __future__ import annotations

import time

import pytest
import torch
from accelerate import skip_first_batches

from myna.samples import Batch
from myna.train.loader import EpochNumbers, FeedMeter, Taken, training_loader


class Slow:
    """A feed of empty batches that takes its time."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def take(self, number: int) -> Batch:
        self.asked.append(number)
        time.sleep(0.01)
        one = torch.ones(1, dtype=torch.int64)
        return Batch(("id",), torch.zeros(1, 1, 1), one, one[None], one, torch.ones(1), 2.0)


def test_ranks_share_an_epochs_numbers():
    ranks = [EpochNumbers(6, rank, 2) for rank in range(2)]
    for numbers in ranks:
        numbers.set_epoch(1)
    assert [list(numbers) for numbers in ranks] == [[[6], [8], [10]], [[7], [9], [11]]]
    assert [len(numbers) for numbers in ranks] == [3, 3]


def test_a_resumed_epoch_asks_for_nothing_that_came_before():
    feed = Slow()
    loader = training_loader(Taken(feed, 100), EpochNumbers(100, 0, 1))
    iterator = iter(skip_first_batches(loader, 90))
    next(iterator)
    assert feed.asked == [90]


def test_waiting_is_counted():
    taken = Taken(Slow(), 4)
    for number in range(4):
        taken[number]
        time.sleep(0.03)
    figures = taken.all_along.figures()
    assert figures["feed_wait_share"] == pytest.approx(0.25, abs=0.1)
    assert figures["audio_seconds_per_second"] == pytest.approx(2 * figures["utterances_per_second"], rel=0.01)


def test_before_the_first_batch_all_is_zero():
    assert set(FeedMeter().figures().values()) == {0.0}
