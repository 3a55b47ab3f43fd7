"""The plan of Myna's own feed: padded seconds of a step, and into how many micro-batches it must be split."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from myna.feed.epoch import bucket_edges
from myna.plan.training_plan import FeedBudget

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.plan.memory.fit import MemoryModel

NUM_BUCKETS = 30  # as the feed section's default


def feed_budget(
    model: MemoryModel,
    durations_seconds: NDArray[np.float64],
    *,
    mean_seconds: float,
    target_batch_size: int,
    gpu_count: int,
    limit_bytes: int,
    num_buckets: int = NUM_BUCKETS,
) -> FeedBudget:
    """Split an optimizer step into the fewest micro-batches that fit, whichever bucket the step comes from.

    Args:
        model: memory of the chosen way of taking the step.
        durations_seconds: (n,) padded durations that stand for the dataset's.
        mean_seconds: of a padded clip.
        target_batch_size: clips of an optimizer step, on average.
        gpu_count: devices that share a step.
        limit_bytes: what each device may hold.
        num_buckets: lengths that batches are grouped by.
    """
    edges = bucket_edges(durations_seconds, num_buckets)  # (num_buckets or fewer,) seconds, rising
    longest = float(edges[-1])
    step_seconds = max(longest, target_batch_size * mean_seconds)
    clips = np.maximum(1, (step_seconds / edges + 1e-9).astype(int))  # of a step, as `plan_epoch` cuts it

    def fits(accumulation: int) -> bool:
        parts = -(-clips // (accumulation * gpu_count))
        costliest, *others = sorted(
            zip(parts.tolist(), edges.tolist(), strict=True), key=lambda part: -part[0] * part[1]
        )
        return model.fits(*costliest, limit_bytes, others)  # as a run begins, and then through all lengths

    # One clip a micro-batch is known to fit, so the last accumulation needs no look.
    accumulation = 1 + bisect_left(range(1, int(-(-clips.max() // gpu_count))), True, key=fits)
    parts = -(-clips // (accumulation * gpu_count))
    fullest = float((parts * edges).max())
    return FeedBudget(
        batch_seconds=round(fullest, 2),
        step_seconds=round(step_seconds, 2),
        feed_accumulation=accumulation,
        num_buckets=num_buckets,
        clips_per_bucket=tuple((round(float(edge), 2), int(count)) for edge, count in zip(edges, parts, strict=True)),
        reason=f"{target_batch_size} clips of {mean_seconds:.2f} s on average; in {accumulation} so that each of "
        f"{len(edges)} buckets fits, from {parts[0]} clips of {edges[0]:.1f} s to {parts[-1]} of {longest:.1f} s",
    )
