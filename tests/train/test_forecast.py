from __future__ import annotations

import time

import numpy as np
import pytest

from myna.train.forecast import (
    DRAWS,
    DRIFT,
    PRIOR_DEVIATION,
    PRIOR_MEAN,
    SMALLEST_RATE,
    Futures,
    curves_of,
    foresee,
)


def law_of_the_model(rng: np.random.Generator, steps: np.ndarray, seen: int) -> np.ndarray:
    """A curve as the model takes curves to be: from its own prior, with its noise and, from `seen` on, its drift."""
    parameters = PRIOR_MEAN + PRIOR_DEVIATION * rng.standard_normal((1, len(PRIOR_MEAN)))
    shares = steps / steps[-1]
    middle, deviation = curves_of(shares, 0.6, rng.integers(3, size=1), parameters)
    drift = DRIFT * np.cumsum(np.sqrt(np.diff(np.log(shares[seen - 1 :]))) * rng.standard_normal(len(steps) - seen))
    middle[0, seen:] += drift
    return np.exp(middle + deviation * rng.standard_normal(len(steps)))[0] - SMALLEST_RATE


def law_of_another(rng: np.random.Generator, steps: np.ndarray, seen: int) -> np.ndarray:
    """An exponential or a power law towards a floor, with noise of 4 %: kinder than the prior expects."""
    done = steps / steps[-1] / rng.uniform(0.15, 0.6)
    floor = rng.uniform(0.02, 0.3)
    left = np.exp(-done) if rng.random() < 0.5 else (1 + done) ** -rng.uniform(0.7, 2)
    return (floor + (0.9 - floor) * left) * np.exp(0.04 * rng.standard_normal(len(steps)))


@pytest.mark.parametrize(
    ("law", "evaluations", "at_least", "at_most"),
    [(law_of_the_model, 9, 0.72, 0.88), (law_of_the_model, 30, 0.72, 0.88), (law_of_another, 30, 0.8, 0.98)],
)
def test_intervals_at_a_third_of_the_run_hold_the_end_as_often_as_they_say(law, evaluations, at_least, at_most):
    steps, seen = np.arange(1, evaluations + 1) * 50, evaluations // 3
    rng, held = np.random.default_rng(0), []
    for number in range(150):
        rates = law(rng, steps, seen)
        low, high = foresee(steps[:seen], rates[:seen], steps[seen:], seed=number).final(0.1, 0.9)
        held.append(low <= rates.min() <= high)
    assert at_least <= np.mean(held) <= at_most


def test_more_of_the_curve_makes_the_interval_narrower():
    steps = np.arange(1, 31) * 50
    rates = 0.1 + 0.8 * np.exp(-steps / 300)
    widths = []
    for seen in (3, 10, 25):
        low, high = foresee(steps[:seen], rates[:seen], steps[seen:]).final(0.1, 0.9)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 2 * widths[2]


def test_the_best_so_far_never_rises_and_the_same_seed_draws_the_same():
    futures = foresee([10, 20, 30], [0.9, 0.5, 0.6], [40, 50, 60], seed=3)
    assert futures.best.shape == (DRAWS, 3)
    assert futures.best.max() <= 0.5 and futures.best.min() >= 0
    assert (np.diff(futures.best, axis=1) <= 0).all()
    np.testing.assert_array_equal(futures.best, foresee([10, 20, 30], [0.9, 0.5, 0.6], [40, 50, 60], seed=3).best)


def test_of_a_silent_start_only_its_end_tells():
    loud = foresee([40, 50], [1.0, 0.7], [100]).best
    np.testing.assert_array_equal(foresee([10, 20, 30, 40, 50], [1.0, 1.0, 1.0, 1.0, 0.7], [100]).best, loud)
    low, high = foresee([10, 20, 30], [1.0, 1.0, 1.0], [40, 50, 60, 70, 80, 90]).final(0.1, 0.9)
    assert high - low > 0.3  # nothing is known yet


def test_first_steps_are_those_of_the_first_evaluation_at_or_below_the_target():
    futures = Futures(np.array([10, 20, 30]), np.array([[0.5, 0.3, 0.3], [0.2, 0.2, 0.1], [0.9, 0.8, 0.7]]))
    assert futures.first_steps(0.3).tolist() == [20, 10, np.inf]
    assert futures.final(0.5) == [0.3]


def test_a_long_curve_is_quick():
    steps = np.arange(1, 1001)
    rates = 0.1 + 0.8 * np.exp(-steps / 300)
    begun = time.process_time()
    foresee(steps[:900], rates[:900], np.arange(901, 1101))
    assert time.process_time() - begun < 0.5  # a tenth of it, alone
