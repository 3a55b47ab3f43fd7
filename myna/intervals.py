"""How sure an error rate is, and whether two runs differ: bootstrap over speakers.

Utterances of one speaker are not independent, so what is drawn again is whole speakers (Bisani & Ney, 2004, with
their unit of utterances exchanged for speakers). Each draw is divided by its own standard error (the bootstrap-t of
Efron & Tibshirani, 1993, chapter 12.5): with few speakers of unequal size, plain percentiles are far too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
DRAWS = 2_000
MIN_UNITS = 5  # with fewer, draws say nothing
NO_SPREAD = 1e-9  # standard errors below are rounding
MAX_UNITS = 2_000  # more are added up at random to so many: the interval stays, time and memory do not grow
CHUNK = 100  # draws at a time

Unit = Literal["speaker", "utterance"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a rate or a difference of rates lies with 95 % confidence, as shares of 1."""

    low: float
    high: float
    unit: Unit  # what was drawn
    units: int  # how many there are; with one, nothing is known and the interval is a point


@dataclass(frozen=True, slots=True)
class Difference:
    """Two systems on the same utterances: the second's rate less the first's, as shares of 1."""

    rate: float
    interval: Interval
    p_value: float  # how often chance alone gives a difference as large

    @property
    def is_significant(self) -> bool:
        """Whether chance is an unlikely reason, at the 5 % level."""
        return self.p_value < 1 - LEVEL


def rate_interval(errors: ArrayLike, words: ArrayLike, speakers: Sequence[str], seed: int = 0) -> Interval:
    """The interval of sum(errors) / sum(words).

    Args:
        errors: of each utterance, (N,).
        words: of each reference, (N,).
        speakers: of each utterance; "" where unknown, which makes every utterance a unit of its own.
        seed: of the draws.
    """
    sums, unit = _units(np.stack([errors, words]), speakers, seed)
    count = sums.shape[1]
    if not sums[0].any():  # no error to draw: what as many units without one still allow (Clopper-Pearson)
        return Interval(0.0, 1 - ((1 - LEVEL) / 2) ** (1 / max(1, count)), unit, count)
    low, high = _bootstrap_t(sums[0], sums[1], seed)
    return Interval(max(0.0, low), high, unit, count)


def compare(
    errors: ArrayLike, other_errors: ArrayLike, words: ArrayLike, speakers: Sequence[str], seed: int = 0
) -> Difference:
    """The matched-pair comparison of two systems on the same utterances.

    Its p-value exchanges the systems at random, speaker by speaker (a permutation test), and needs no distribution.

    Args:
        errors: of the first system on each utterance, (N,).
        other_errors: of the second.
        words: of each reference, (N,).
        speakers: of each utterance, as in `rate_interval`.
        seed: of the draws.
    """
    gain = np.subtract(other_errors, errors)
    sums, unit = _units(np.stack([gain, words]), speakers, seed)
    low, high = _bootstrap_t(sums[0], sums[1], seed)
    rng = np.random.default_rng(seed)
    by_chance = [rng.choice((-1.0, 1.0), (CHUNK, sums.shape[1])) @ sums[0] for _ in range(DRAWS // CHUNK)]
    as_large = np.abs(np.concatenate(by_chance)) >= abs(sums[0].sum()) - 1e-9
    p_value = (1 + int(as_large.sum())) / (1 + DRAWS)
    rate = float(sums[0].sum() / max(1.0, sums[1].sum()))
    return Difference(rate, Interval(low, high, unit, sums.shape[1]), p_value)


def _units(rows: NDArray[np.float64], speakers: Sequence[str], seed: int) -> tuple[NDArray[np.float64], Unit]:
    """Sums (2, G) over what is drawn as one, from (2, N) of utterances."""
    names, owner = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    unit: Unit = "speaker"
    if "" in names or len(names) < MIN_UNITS:
        unit, owner = "utterance", np.arange(rows.shape[1])
    count = int(owner.max(initial=-1)) + 1
    if count > MAX_UNITS:
        owner = np.random.default_rng(seed).permutation(count)[owner] % MAX_UNITS
        count = MAX_UNITS
    return np.stack([np.bincount(owner, row, count) for row in rows]), unit


def _bootstrap_t(values: NDArray[np.float64], sizes: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of sum(values) / sum(sizes), from (G,) sums of units."""
    count = len(sizes)
    if count < 2 or not sizes.any():
        point = float(values.sum() / max(1.0, sizes.sum()))
        return point, point
    rate, error = _ratio(np.ones((1, count)), values, sizes)
    if count < MIN_UNITS:
        reach = float(stdtrit(count - 1, (1 + LEVEL) / 2) * error[0])  # Student's t
        return float(rate[0]) - reach, float(rate[0]) + reach
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(DRAWS // CHUNK):
        times = rng.multinomial(count, np.full(count, 1 / count), CHUNK).astype(float)  # (CHUNK, G)
        drawn, its_error = _ratio(times, values, sizes)
        is_telling = its_error > NO_SPREAD  # a draw of the same unit alone says nothing of spread
        ratios.append((drawn[is_telling] - rate) / its_error[is_telling])
    ratio = np.concatenate(ratios)
    if not len(ratio):
        return float(rate[0]), float(rate[0])
    upper, lower = np.quantile(ratio, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return float(rate[0] - upper * error[0]), float(rate[0] - lower * error[0])


def _ratio(
    times: NDArray[np.float64], values: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratio of sums and its standard error by linearisation, (D,) each, for units that count `times` (D, G)."""
    count = times.shape[1]
    total = np.maximum(times @ sizes, 1e-12)
    rate = (times @ values) / total
    squares = times @ values**2 - 2 * rate * (times @ (values * sizes)) + rate**2 * (times @ sizes**2)
    return rate, np.sqrt(np.maximum(squares, 0) * count / (count - 1)) / total
