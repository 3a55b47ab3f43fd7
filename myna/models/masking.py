"""Spans of frames that a model in training does not hear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def draw_time_mask(
    lengths: Sequence[int],
    num_frames: int,
    share: float,
    span_frames: int,
    rng: np.random.Generator,
    min_spans: int = 0,
) -> NDArray[np.bool_]:
    """Frames to mask, (B, num_frames), as SpecAugment and wav2vec 2.0 do: spans that start anywhere and may overlap.

    Args:
        lengths: B, real frames.
        num_frames: of the padded batch.
        share: of each row's frames, were no two spans to overlap.
        span_frames: length of a span; rows that are shorter stay whole.
        rng: what to draw from.
        min_spans: of each row that is long enough.
    """
    mask = np.zeros((len(lengths), num_frames), dtype=bool)
    for row, length in enumerate(lengths):
        num_starts = length - span_frames + 1
        num_spans = int(share * length / span_frames + rng.random())  # rounded at random, right on average
        if num_starts > 0:
            starts = rng.choice(num_starts, min(max(min_spans, num_spans), num_starts), replace=False)
            mask[row, (starts[:, None] + np.arange(span_frames)).ravel()] = True
    return mask
