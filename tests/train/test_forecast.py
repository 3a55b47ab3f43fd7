from __future__ import annotations

import time

import numpy as np
import pytest

from myna.train.forecast import DRAWS, Futures, foresee


def curve(rng: np.random.Generator, steps: np.ndarray) -> np.ndarray:
    """A law of its own: an exponential or a power law towards a floor, with noise of 4 %."""
    done = steps / steps[-1] / rng.uniform(0.15, 0.6)
    floor = rng.uniform(0.02, 0.3)
    left = np.exp(-done) if rng.random() < 0.5 else (1 + done) ** -rng.uniform(0.7, 2)
    return (floor + (0.9 - floor) * left) * np.exp(0.04 * rng.standard_normal(len(steps)))


@pytest.mark.parametrize("evaluations", [9, 30])
def test_intervals_at_a_third_of_the_run_hold_the_end_as_often_as_they_say(evaluations):
    steps = np.arange(1, evaluations + 1) * 50
    rng, held, width = np.random.default_rng(0), [], []
    for number in range(80):
        rates = curve(rng, steps)
        seen = evaluations // 3
        low, high = foresee(steps[:seen], rates[:seen], steps[seen:], seed=number).final(0.1, 0.9)
        held.append(low <= rates.min() <= high)
        width.append(high - low)
    assert 0.7 <= np.mean(held) <= 0.97
    assert np.mean(width) < 0.35  # rates at a third of the run are 0.4 on average


def test_more_of_the_curve_makes_the_interval_narrower():
    steps = np.arange(1, 31) * 50
    rates = 0.1 + 0.8 * np.exp(-steps / 300)
    widths = []
    for seen in (5, 10, 20):
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
