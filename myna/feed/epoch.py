"""The epoch plan: which utterances make which optimizer step, as a pure function.

The plan is the source of truth of training data. For the same durations, seed, epoch and budget it is always
the same, so a resumed run, another number of ranks or another micro-batch split see the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


WINDOW_UTTERANCES = 10_000  # of shards shuffled together: enough to mix, and about 1 GB for the page cache


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """How much audio an optimizer step holds.

    An optimizer step covers `step_seconds` of padded audio, whatever the micro-batch split, so shorter buckets
    hold more clips.
    """

    step_seconds: float
    num_buckets: int = 30

    @classmethod
    def from_longest(
        cls,
        longest_seconds: float,
        clips: int,
        *,
        accumulation: int = 1,
        world_size: int = 1,
        num_buckets: int = 30,
    ) -> BatchBudget:
        """The budget in which `clips` of the longest utterances fit one micro-batch."""
        return cls(longest_seconds * clips * accumulation * world_size, num_buckets)


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The optimizer steps of one epoch.

    Every utterance is in exactly one step. `steps[k]` holds positions in the utterance list, longest first.
    """

    steps: tuple[NDArray[np.int64], ...]

    def micro_batch(self, step: int, part: int, parts: int) -> NDArray[np.int64]:
        """The utterances of one of the `parts` (accumulation x ranks) that a step is split into.

        Parts are runs of similar length and nearly equal size; some are empty when utterances are fewer than parts.
        """
        return np.array_split(self.steps[step], parts)[part]


def bucket_edges(durations_seconds: NDArray[np.float64], num_buckets: int) -> NDArray[np.float64]:
    """Upper edges (num_buckets or fewer,) such that buckets hold equal hours; the last is the longest duration."""
    ordered = np.sort(durations_seconds)
    hours = np.cumsum(ordered)
    cuts = np.searchsorted(hours, hours[-1] * np.arange(1, num_buckets + 1) / num_buckets)
    return np.unique(ordered[np.minimum(cuts, len(ordered) - 1)])


def plan_epoch(
    durations_seconds: NDArray[np.float64],
    budget: BatchBudget,
    *,
    seed: int,
    epoch: int,
    shard_of: NDArray[np.int64] | None = None,
) -> EpochPlan:
    """Shuffle the utterances, group them by length and cut each group into steps; then shuffle the steps.

    What does not fill a step of its bucket moves up to the next longer one; the longest bucket's rest is a
    smaller step. The number of steps is the same in every epoch, and so is that of micro-batches on every rank. The
    first epoch begins with its costliest step, so that a run which does not fit into memory fails at once and not after
    hours.

    With shards, windows of a few shards are shuffled as a whole and utterances only within their window, and steps keep
    the windows' order: reads go from one window to the next. Only the steps that a bucket begins in one window and
    fills from another reach further.

    Args:
        durations_seconds: (num_utterances,) what each utterance costs once padded by its model's front end.
        budget: audio per optimizer step.
        seed: of the run.
        epoch: from 0.
        shard_of: (num_utterances,) which shard each lies in; None where place does not matter.

    Returns:
        The plan. 1,000,000 utterances take about a second.
    """
    rng = np.random.default_rng([seed, epoch])
    edges = bucket_edges(durations_seconds, budget.num_buckets)
    shuffled = rng.permutation(len(durations_seconds))
    window_of = np.zeros(len(durations_seconds), dtype=np.int64)
    if shard_of is not None:
        window_of = _windows(shard_of, rng)
        shuffled = shuffled[np.argsort(window_of[shuffled], kind="stable")]
    bucket_of = np.searchsorted(edges, durations_seconds[shuffled])
    by_bucket = shuffled[np.argsort(bucket_of, kind="stable")]
    starts = np.searchsorted(np.sort(bucket_of), np.arange(len(edges) + 1))
    steps: list[NDArray[np.int64]] = []
    rest = np.empty(0, dtype=np.int64)
    for bucket, edge in enumerate(edges):
        waiting = np.concatenate([rest, by_bucket[starts[bucket] : starts[bucket + 1]]])
        capacity = max(1, int(budget.step_seconds / edge + 1e-9))
        whole = len(waiting) // capacity * capacity
        steps.extend(waiting[:whole].reshape(-1, capacity))
        rest = waiting[whole:]
    if len(rest):
        steps.append(rest)
    order = rng.permutation(len(steps))
    if shard_of is not None:
        window_of_step = np.array([np.median(window_of[step]) for step in steps])
        order = order[np.argsort(window_of_step[order], kind="stable")]
    if epoch == 0:
        order = _costliest_first(order, steps, durations_seconds)
    return EpochPlan(tuple(_longest_first(steps[k], durations_seconds) for k in order))


def plan_evaluation(durations_seconds: NDArray[np.float64], batch_seconds: float) -> Iterator[NDArray[np.int64]]:
    """Batches of similar length, longest first, each at most `batch_seconds` of padded audio (or one utterance)."""
    order = np.argsort(-durations_seconds, kind="stable")
    start = 0
    while start < len(order):
        capacity = max(1, int(batch_seconds / durations_seconds[order[start]] + 1e-9))
        yield order[start : start + capacity]
        start += capacity


def _windows(shard_of: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Which window each utterance is read in, (num_utterances,): shards in a drawn order, put together by count."""
    counts = np.bincount(shard_of)
    drawn = rng.permutation(len(counts))
    before = np.cumsum(counts[drawn]) - counts[drawn]
    window_of_shard = np.empty(len(counts), dtype=np.int64)
    window_of_shard[drawn] = before // WINDOW_UTTERANCES
    return window_of_shard[shard_of]


def _costliest_first(
    order: NDArray[np.int64], steps: list[NDArray[np.int64]], durations_seconds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Put the step of the most padded seconds first; at equal seconds the one of the longest clips."""

    def cost(position: int) -> tuple[float, float]:
        longest = float(durations_seconds[steps[order[position]]].max())
        return len(steps[order[position]]) * longest, longest

    costliest = max(range(len(order)), key=cost)
    order[[0, costliest]] = order[[costliest, 0]]
    return order


def _longest_first(step: NDArray[np.int64], durations_seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    return step[np.argsort(-durations_seconds[step], kind="stable")]
