"""A dataset without its longest utterances, and what that loses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from myna.errors import PlanError

if TYPE_CHECKING:
    from myna.plan.profiles.dataset import DatasetProfile

LOST_SHARE = 0.005  # of the hours: what a plan may leave out, or propose to leave out


def cut(dataset: DatasetProfile, longest_seconds: float) -> DatasetProfile:
    """The profile of the utterances up to a length, computed from the quantiles.

    Of thousands, the quantiles resolve 1 in 511: a cut just below a lone outlier counts as if it lost so many.

    Raises:
        PlanError: nothing is left.
    """
    if longest_seconds >= dataset.max_seconds:
        return dataset
    durations = dataset.durations_seconds
    kept = durations[durations <= longest_seconds]
    if not len(kept):
        raise PlanError(
            [
                f"max_audio_duration_seconds: expected at least the shortest clip's {dataset.min_seconds:.2f}; "
                f"received {longest_seconds:g}"
            ]
        )
    every_one = len(durations) == dataset.measured
    share = len(kept) / len(durations) if every_one else (len(kept) - 1) / (len(durations) - 1)
    utterances = max(1, round(share * dataset.utterances))
    # Between quantiles lengths are taken to rise evenly; the dataset's own total is exact.
    mean_seconds = float(kept.mean() if every_one or len(kept) == 1 else (kept[1:] + kept[:-1]).mean() / 2)
    hours = min(dataset.total_hours, mean_seconds * utterances / 3600)
    return replace(
        dataset,
        utterances=utterances,
        total_hours=hours,
        mean_seconds=mean_seconds,
        max_seconds=float(kept[-1]),
        p95_seconds=float(np.quantile(kept, 0.95)),
        quantile_seconds=tuple(kept.tolist()),
        size_bytes=round(hours / dataset.total_hours * dataset.size_bytes),
        measured=max(1, round(share * dataset.measured)),
    )


def lost_share(dataset: DatasetProfile, kept: DatasetProfile) -> float:
    """Share of the hours that a cut leaves out, from 0 to 1."""
    return max(0.0, 1 - kept.total_hours / dataset.total_hours)
