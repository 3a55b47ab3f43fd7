"""A split in batches of similar length, for validation and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.feed.batches import make_batch
from myna.feed.epoch import plan_evaluation
from myna.feed.local import LocalFeed
from myna.feed.work import padded_durations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from myna.feed.batches import Processor
    from myna.samples import Batch, Utterance


class EvaluationBatches:
    """A split in batches of similar length, longest first, without augmentation.

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
        self.batch_seconds = batch_seconds
        self.durations_seconds = padded_durations(utterances, processor)
        self.batches = list(plan_evaluation(self.durations_seconds, batch_seconds))[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def make(self, number: int) -> Batch:
        """The batch of a number."""
        return make_batch([self.utterances[position] for position in self.batches[number]], self.processor)

    def audio_seconds(self, number: int) -> float:
        """Padded audio in a batch."""
        return float(self.durations_seconds[self.batches[number]].sum())

    def in_order(self, num_workers: int) -> Iterator[Batch]:
        """All batches, made ahead by `num_workers` processes (0: by this one)."""
        with LocalFeed(self, num_workers=min(num_workers, len(self)), total=len(self)) as feed:
            for number in range(len(self)):
                yield feed.take(number)
