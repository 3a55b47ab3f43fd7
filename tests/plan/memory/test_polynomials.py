from __future__ import annotations

import numpy as np
import pytest

from myna.plan.memory.polynomials import fit_above, fit_rows, terms
from myna.plan.memory.worker import PROBES


@pytest.mark.parametrize(
    "size",
    [
        lambda clips, seconds: 1000.0,
        lambda clips, seconds: 12.0 * clips,
        lambda clips, seconds: 640.0 * seconds,
        lambda clips, seconds: clips * (50.0 * seconds - 7),
        lambda clips, seconds: 8.0 * clips * seconds**2,
        lambda clips, seconds: clips * (8.0 * seconds**2 + 30.0 * seconds),
        lambda clips, seconds: 3.0 * seconds**2,
    ],
)
def test_shapes_are_found_from_a_few_probes(size):
    coefficients, errors = fit_rows(PROBES, np.array([[size(*probe) for probe in PROBES]]))
    assert errors[0] < 1e-9
    for batch in ((1, 3.0), (16, 9.5), (4, 60.0)):
        assert coefficients[0] @ terms(*batch) == pytest.approx(size(*batch))


@pytest.mark.parametrize(
    "frames",
    [
        lambda seconds: -(-(int(100 * seconds) + 1) // 8),  # log-mel frames, three times halved and rounded up
        lambda seconds: (int(16_000 * seconds) - 400) // 320 + 1,  # wav2vec 2.0
    ],
)
def test_whole_frames_are_exact(frames):
    rows = np.array([[4096.0 * clips * frames(seconds) for clips, seconds in PROBES]])
    coefficients, _ = fit_rows(PROBES, rows)
    for seconds in (3.3, 7.99, 21.4):
        assert coefficients[0] @ terms(7, seconds) == pytest.approx(4096 * 7 * frames(seconds))


def test_an_unknown_way_of_counting_costs_little_precision():
    rows = np.array([[4096.0 * clips * int(37 * seconds) for clips, seconds in PROBES]])
    coefficients, errors = fit_rows(PROBES, rows)
    assert 1e-6 < errors[0] < 0.005
    assert coefficients[0] @ terms(7, 21.4) == pytest.approx(4096 * 7 * int(37 * 21.4), rel=0.005)


def test_a_bound_is_nowhere_below_its_values():
    values = np.array([10.0, 70.0, 20.0, 90.0, 40.0])
    bound = fit_above(PROBES, values)
    assert (bound >= 0).all()
    assert all(bound @ terms(*probe) >= value - 1e-9 for probe, value in zip(PROBES, values, strict=True))


def test_a_bound_of_nothing_is_nothing():
    assert not fit_above(PROBES, np.zeros(len(PROBES))).any()
