"""Samples at exactly the length asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fitted(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The first `length` samples, with silence after them where there are fewer.

    Resamplers may come out a sample longer or shorter than the rounded quotient.
    """
    if len(samples) >= length:
        return samples[:length]
    return np.pad(samples, (0, length - len(samples)))


def looped(samples: NDArray[np.float32], start: int, length: int) -> NDArray[np.float32]:
    """`length` samples from `start` on; after the last comes the first again."""
    repeats = -(-(start + length) // len(samples))
    return (samples if repeats == 1 else np.tile(samples, repeats))[start : start + length]
