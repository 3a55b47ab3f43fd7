"""The feed as `transformers.Trainer` sees it, with a clock on every wait."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from myna.feed.protocol import Feed
    from myna.samples import Batch


class EpochNumbers(Sampler[list[int]]):
    """The numbers of one epoch that fall to a rank, in order.

    The trainer sets the epoch, and skips the first batches of a resumed one without any being made.

    Args:
        per_epoch: micro-batches of an epoch, all ranks together.
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(self, per_epoch: int, rank: int, world_size: int) -> None:
        self.per_epoch = per_epoch
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration lists."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.per_epoch
        for number in range(first + self.rank, first + self.per_epoch, self.world_size):
            yield [number]


@dataclass(slots=True)
class FeedMeter:
    """What the trainer took from its feed, and how long it waited."""

    waited_seconds: float = 0.0
    utterances: int = 0
    audio_seconds: float = 0.0
    started: float = 0.0  # of the clock; 0 before the first batch

    def add(self, batch: Batch, asked: float) -> None:
        """Count a batch that was asked for at `asked`."""
        self.started = self.started or asked
        self.waited_seconds += time.perf_counter() - asked
        self.utterances += int(batch.weights.sum())
        self.audio_seconds += batch.audio_seconds

    def figures(self) -> dict[str, float]:
        """Wait share and throughput since the first batch, as they are logged; 0 before it."""
        elapsed = time.perf_counter() - self.started if self.started else math.inf
        return {
            "feed_wait_share": round(self.waited_seconds / elapsed, 4),
            "utterances_per_second": round(self.utterances / elapsed, 3),
            "audio_seconds_per_second": round(self.audio_seconds / elapsed, 3),
        }


class Taken(Dataset["Batch"]):
    """Batches by number, out of a feed.

    `lately` is the trainer's to replace, after each log line say; `all_along` counts the whole run but its first batch,
    which every run waits for.
    """

    def __init__(self, feed: Feed, per_epoch: int) -> None:
        self.feed = feed
        self.per_epoch = per_epoch
        self.lately = FeedMeter()
        self.all_along = FeedMeter()

    def __len__(self) -> int:
        """Micro-batches of an epoch, all ranks together."""
        return self.per_epoch

    def __getitem__(self, number: int) -> Batch:
        asked = time.perf_counter()
        batch = self.feed.take(number)
        self.lately.add(batch, asked)
        if self.all_along.started:
            self.all_along.add(batch, asked)
        else:
            self.all_along.started = time.perf_counter()
        return batch


def training_loader(taken: Taken, numbers: EpochNumbers) -> DataLoader[Batch]:
    """Micro-batches of a rank, epoch by epoch; the feed makes them ahead, so no process of the loader is needed."""
    return DataLoader(
        taken,
        batch_sampler=numbers,
        collate_fn=_only,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: drawing seeds must not move the model's dropout
    )


def _only(batches: list[Batch]) -> Batch:
    return batches[0]
