"""Sizes as polynomials of a batch: B clips of T seconds.

A storage is a product of the dimensions of its shape, so its size is B or not, times nothing, a length, or a length
squared. Front ends turn seconds into whole frames; a few ways of counting cover the models there are, and then the
size is exact.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Terms of the length in seconds. Those of the other lengths follow, in the same order but without the first two.
CONSTANT, CLIPS, SECONDS, CLIP_SECONDS, CLIP_SECONDS_SQUARED, SECONDS_SQUARED = range(6)
FEATURE_RATE_HZ = 100
WAVE_SAMPLES, WAVE_STRIDE, WAVE_BORDER = 16_000, 320, 80  # wav2vec 2.0: (samples - 400) // 320 + 1 frames
NUM_LENGTHS = 7
NUM_TERMS = 2 + 4 * NUM_LENGTHS
# Simplest first. A constant beside a term stands for a border: convolutions lose frames there, padding adds some.
CANDIDATES = (
    (CONSTANT,),
    (CLIPS,),
    (SECONDS,),
    (CLIP_SECONDS,),
    (CLIPS, CLIP_SECONDS),
    (CONSTANT, SECONDS),
    (CONSTANT, CLIPS),
    (CLIP_SECONDS_SQUARED,),
    (CLIP_SECONDS, CLIP_SECONDS_SQUARED),
    (SECONDS_SQUARED,),
    (SECONDS, SECONDS_SQUARED),
    (CLIPS, CLIP_SECONDS, CLIP_SECONDS_SQUARED),
)
EXACT = 1e-9  # relative
TOLERANCE = 5e-4  # relative, where nothing is exact
GAIN = 0.7  # a less simple polynomial must be that much closer to be taken


def lengths(seconds: float) -> list[float]:
    """A clip's length in several countings: seconds, feature frames, these by 2, 4 and 8, wav2vec 2.0's, Whisper's."""
    frames = int(FEATURE_RATE_HZ * seconds) + 1
    wave_frames = (int(WAVE_SAMPLES * seconds) - WAVE_BORDER) // WAVE_STRIDE
    by_strides = (math.ceil(frames / stride) for stride in (2, 4, 8))
    return [seconds, frames, *by_strides, wave_frames, whisper_positions(seconds)]


def whisper_positions(seconds: float) -> int:
    """Of Whisper's encoder, which hears as many seconds as it is given: two feature frames each."""
    return math.ceil(int(FEATURE_RATE_HZ * seconds) / 2)


def terms(clips: float, seconds: float) -> Floats:
    """(NUM_TERMS,) values of the terms for a batch."""
    values = [1.0, clips]
    for length in lengths(seconds):
        values += [length, clips * length, clips * length**2, length**2]
    return np.array(values)


def fit_rows(points: Sequence[tuple[int, float]], rows: Floats) -> tuple[Floats, Floats]:
    """The simplest polynomial through each row of values.

    Args:
        points: (clips, seconds) of each column.
        rows: (rows, points) values, none negative.

    Returns:
        Coefficients (rows, NUM_TERMS), and the largest relative error of each row over the points.
    """
    design = np.array([terms(*point) for point in points])  # (points, NUM_TERMS)
    coefficients = np.zeros((len(rows), NUM_TERMS))
    errors = np.full(len(rows), np.inf)
    for number, row in enumerate(rows):
        scale = np.maximum(row, 1.0)
        weighted, target = design / scale[:, None], row / scale
        columns, solution, errors[number] = _exact(weighted, target) or _close(weighted, target)
        coefficients[number, columns] = solution
    return coefficients, errors


def _exact(weighted: Floats, target: Floats) -> tuple[list[int], Floats, float] | None:
    """The simplest candidate that goes through all points in some counting, with fewer coefficients than points."""
    for candidate in CANDIDATES:
        for length in range(NUM_LENGTHS if max(candidate) > CLIPS else 1):
            columns = [term + 4 * length if term > CLIPS else term for term in candidate]
            solution, error = _solved(weighted[:, columns], target)
            if error <= EXACT and len(columns) < len(target):
                return columns, solution, error
    return None


def _close(weighted: Floats, target: Floats) -> tuple[list[int], Floats, float]:
    """The simplest candidate in seconds that is close to the points, else the closest."""
    best: tuple[list[int], Floats, float] = [CONSTANT], np.zeros(1), np.inf
    for candidate in CANDIDATES:
        solution, error = _solved(weighted[:, candidate], target)
        if error < GAIN * best[2]:
            best = list(candidate), solution, error
        if error <= TOLERANCE:
            break
    return best


def _solved(weighted: Floats, target: Floats) -> tuple[Floats, float]:
    solution: Floats = np.linalg.lstsq(weighted, target, rcond=None)[0].astype(np.float64)
    return solution, float(np.abs(weighted @ solution - target).max())


def fit_above(points: Sequence[tuple[int, float]], values: Floats) -> Floats:
    """A polynomial in seconds with no negative coefficient that is nowhere below the values.

    Args:
        points: (clips, seconds) of each value.
        values: (points,), none negative.

    Returns:
        (NUM_TERMS,) coefficients.
    """
    design = np.array([terms(*point) for point in points])
    coefficients = np.zeros(NUM_TERMS)
    kept = [CONSTANT, CLIPS, CLIP_SECONDS, CLIP_SECONDS_SQUARED]
    while kept:
        solution = np.linalg.lstsq(design[:, kept], values, rcond=None)[0]
        if solution.min() >= 0:
            coefficients[kept] = solution
            break
        del kept[int(solution.argmin())]
    # Lift what is below: by a factor, so that it grows with the batch
    fitted = np.maximum(design @ coefficients, 1e-9)
    return coefficients * max(1.0, float((values / fitted).max()))
