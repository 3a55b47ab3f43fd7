"""The plan of Myna's own feed: padded seconds of a step, and into how many micro-batches it must be split."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from myna.feed.epoch import bucket_edges
from myna.plan.training_plan import FeedBudget, MemoryPrediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.plan.memory.model import MemoryModel


@dataclass(frozen=True, slots=True)
class GivenFeed:
    """What is given of the feed, as its section of the configuration says it."""

    num_buckets: int = 30
    step_seconds: float | None = None  # padded audio of an optimizer step; None: as many clips as the step wants


def feed_budget(
    model: MemoryModel,
    durations_seconds: NDArray[np.float64],
    *,
    step_seconds: float,
    num_buckets: int,
    gpu_count: int,
    limit_bytes: int,
    accumulation: int | None = None,
) -> FeedBudget:
    """Split an optimizer step into micro-batches, the fewest that fit whichever bucket the step comes from.

    Args:
        model: memory of the chosen way of taking the step.
        durations_seconds: (n,) padded durations that stand for the dataset's.
        step_seconds: padded audio of an optimizer step, all devices together.
        num_buckets: lengths that batches are grouped by.
        gpu_count: devices that share a step.
        limit_bytes: what each device may hold.
        accumulation: micro-batches where their number is given; whether they fit is then not asked.
    """
    edges = bucket_edges(durations_seconds, num_buckets)  # (num_buckets or fewer,) seconds, rising
    longest = float(edges[-1])
    clips = np.maximum(1, (step_seconds / edges + 1e-9).astype(int))  # of a step, as `plan_epoch` cuts it

    def costliest_first(accumulation: int) -> list[tuple[int, float]]:
        """A micro-batch of each bucket, as a run begins, and then through all lengths."""
        parts = -(-clips // (accumulation * gpu_count))
        shapes = zip(parts.tolist(), edges.tolist(), strict=True)
        return sorted(shapes, key=lambda shape: (-shape[0] * shape[1], -shape[1]))

    def fits(accumulation: int) -> bool:
        costliest, *others = costliest_first(accumulation)
        return model.fits(*costliest, limit_bytes, others)

    if accumulation is None:  # one clip a micro-batch is known to fit, so the last accumulation needs no look
        accumulation = 1 + bisect_left(range(1, int(-(-clips.max() // gpu_count))), True, key=fits)
    parts = -(-clips // (accumulation * gpu_count))
    costliest, *others = costliest_first(accumulation)
    fullest = float((parts * edges).max())
    return FeedBudget(
        batch_seconds=round(fullest, 2),
        step_seconds=step_seconds,
        feed_accumulation=accumulation,
        num_buckets=num_buckets,
        clips_per_bucket=tuple((round(float(edge), 2), int(count)) for edge, count in zip(edges, parts, strict=True)),
        memory=MemoryPrediction.of(model, *costliest, limit_bytes, others),
        reason=f"micro-batches of {len(edges)} lengths, from {parts[0]} clips of {edges[0]:.1f} s to {parts[-1]} of "
        f"{longest:.1f} s",
    )
