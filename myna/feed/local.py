"""The feed on this machine: loader processes make the batches ahead of the trainer."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from myna.feed.batches import make_batch
from myna.feed.epoch import plan_epoch, plan_evaluation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from myna.audio.augment.chain import Chain
    from myna.feed.batches import Processor
    from myna.feed.epoch import BatchBudget, EpochPlan
    from myna.samples import Batch, Utterance

BatchKey = tuple[int, int, int]  # epoch, step, micro-batch of this rank


class TrainingBatches(Dataset["Batch"]):
    """The batches of every epoch, by key; each is made anew whenever it is asked for.

    Args:
        utterances: the training split, in the catalog's order.
        processor: of the model.
        budget: audio per optimizer step.
        augment: transforms, or None.
        seed: of the run.
        accumulation: micro-batches that a rank makes of a step.
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        processor: Processor,
        budget: BatchBudget,
        *,
        augment: Chain | None = None,
        seed: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.utterances = utterances
        self.processor = processor
        self.budget = budget
        self.augment = augment
        self.seed = seed
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        self.durations_seconds = padded_durations(utterances, processor)
        self._plan = (0, plan_epoch(self.durations_seconds, budget, seed=seed, epoch=0))
        self.steps_per_epoch = len(self._plan[1].steps)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; the latest is remembered."""
        if self._plan[0] != epoch:
            self._plan = (epoch, plan_epoch(self.durations_seconds, self.budget, seed=self.seed, epoch=epoch))
        return self._plan[1]

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.steps_per_epoch * self.accumulation

    def __getitem__(self, key: BatchKey) -> Batch:
        epoch, step, micro = key
        plan = self.plan(epoch)
        # Neighbouring parts have similar lengths: giving them to the ranks of one moment keeps ranks in step.
        part = plan.micro_batch(step, micro * self.world_size + self.rank, self.accumulation * self.world_size)
        return make_batch(
            [self.utterances[position] for position in part],
            self.processor,
            augment=self.augment,
            seed=self.seed,
            epoch=epoch,
            filler=self.utterances[plan.steps[step][-1]],
        )


class EpochSampler(Sampler[list[BatchKey]]):
    """The keys of one epoch in order; the trainer sets the epoch, and can skip the first batches for free."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration lists."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[BatchKey]]:
        for step in range(self.batches.steps_per_epoch):
            for micro in range(self.batches.accumulation):
                yield [(self.epoch, step, micro)]


class EvaluationBatches(Dataset["Batch"]):
    """A split in batches of similar length, without augmentation.

    Args:
        utterances: the split.
        processor: of the model.
        batch_seconds: padded audio per batch.
        rank: of this process; it sees every `world_size`-th batch.
        world_size: number of ranks.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        processor: Processor,
        batch_seconds: float,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.utterances = utterances
        self.processor = processor
        durations_seconds = padded_durations(utterances, processor)
        self.batches = list(plan_evaluation(durations_seconds, batch_seconds))[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch:
        return make_batch([self.utterances[index] for index in self.batches[position]], self.processor)


def padded_durations(
    utterances: Sequence[Utterance], processor: Processor
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds that each utterance costs once padded, shape (num_utterances,)."""
    return np.array([processor.padded_seconds(utterance.duration_seconds) for utterance in utterances])


def training_loader(batches: TrainingBatches, *, num_workers: int) -> DataLoader[Batch]:
    """Micro-batches of this rank, epoch by epoch, made by `num_workers` processes (0: in this one)."""
    return DataLoader(
        batches,
        batch_sampler=EpochSampler(batches),
        collate_fn=_only,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: drawing worker seeds must not move the model's dropout
    )


def evaluation_loader(batches: EvaluationBatches, *, num_workers: int) -> DataLoader[Batch]:
    """The batches of a split in order."""
    return DataLoader(
        batches,
        batch_size=1,
        collate_fn=_only,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer still needs batches to stop cleanly."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _only(batches: list[Batch]) -> Batch:
    return batches[0]
