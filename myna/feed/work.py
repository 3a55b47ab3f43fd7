"""A run's batches by number, whoever makes them.

Micro-batches are numbered 0, 1, 2, ... across epochs: number = (epoch * steps_per_epoch + step) * parts + part, with
parts = accumulation * world_size. `number % world_size` is the rank that trains on it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from myna.feed.batches import make_batch
from myna.feed.epoch import plan_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from myna.audio.augment.chain import Chain
    from myna.feed.batches import Processor
    from myna.feed.epoch import BatchBudget, EpochPlan
    from myna.samples import Batch, Utterance


class Position(NamedTuple):
    """Where a number stands."""

    epoch: int
    step: int
    part: int  # of the step, from 0


class TrainingBatches:
    """Makes the batches of every epoch, each anew whenever it is asked for.

    Args:
        utterances: the training split, in the order of IDs.
        processor: of the model.
        budget: audio per optimizer step.
        augment: transforms, or None.
        seed: of the run.
        parts: micro-batches of an optimizer step, all ranks together.
        shard_of: which shard each utterance lies in, where reads should stay near one another.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        processor: Processor,
        budget: BatchBudget,
        *,
        augment: Chain | None = None,
        seed: int = 0,
        parts: int = 1,
        shard_of: NDArray[np.int64] | None = None,
    ) -> None:
        self.utterances = utterances
        self.processor = processor
        self.budget = budget
        self.augment = augment
        self.seed = seed
        self.parts = parts
        self.shard_of = shard_of
        self.durations_seconds = padded_durations(utterances, processor)
        self._plans = {0: self._make_plan(0)}
        self.steps_per_epoch = len(self._plans[0].steps)

    @property
    def per_epoch(self) -> int:
        """Micro-batches of an epoch, all ranks together."""
        return self.steps_per_epoch * self.parts

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; the latest two are remembered, since batches of both wait around an epoch's end."""
        if epoch not in self._plans:
            self._plans = dict([*self._plans.items()][-1:])
            self._plans[epoch] = self._make_plan(epoch)
        return self._plans[epoch]

    def position(self, number: int) -> Position:
        """Epoch, step and part of a number."""
        steps, part = divmod(number, self.parts)
        return Position(*divmod(steps, self.steps_per_epoch), part)

    def make(self, number: int) -> Batch:
        """The batch of a number; the same bytes wherever and whenever it is made."""
        epoch, step, part = self.position(number)
        plan = self.plan(epoch)
        return make_batch(
            [self.utterances[position] for position in plan.micro_batch(step, part, self.parts)],
            self.processor,
            augment=self.augment,
            seed=self.seed,
            epoch=epoch,
            filler=self.utterances[plan.steps[step][-1]],
        )

    def audio_seconds(self, number: int) -> float:
        """Padded audio of a batch, without making it."""
        epoch, step, part = self.position(number)
        members = self.plan(epoch).micro_batch(step, part, self.parts)
        return float(self.durations_seconds[members].sum())

    def fingerprint(self) -> str:
        """A hash of everything that the bytes of the batches depend on but code: two that agree make the same batches.

        It does not depend on where the recordings lie, so hosts may keep them in places of their own.
        """
        digest = hashlib.sha256()
        settings = [self.budget.step_seconds, self.budget.num_buckets, self.seed, self.parts]
        digest.update(json.dumps(settings).encode())
        digest.update((self.augment.fingerprint() if self.augment else "").encode())
        digest.update(self.durations_seconds.tobytes())
        if self.shard_of is not None:
            digest.update(self.shard_of.tobytes())
        for utterance in self.utterances:
            digest.update(f"{utterance.utterance_id}\t{self.processor.labels(utterance)}\n".encode())
        return digest.hexdigest()

    def _make_plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.durations_seconds, self.budget, seed=self.seed, epoch=epoch, shard_of=self.shard_of)


def padded_durations(utterances: Sequence[Utterance], processor: Processor) -> NDArray[np.float64]:
    """Seconds that each utterance costs once padded, shape (num_utterances,)."""
    return np.array([processor.padded_seconds(utterance.duration_seconds) for utterance in utterances])
