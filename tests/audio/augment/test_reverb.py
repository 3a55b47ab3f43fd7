from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.reverb import convolved, reverberated


@pytest.mark.parametrize("num_samples", [1, 5, 100, 4_000, 10_001])
@pytest.mark.parametrize("num_taps", [1, 7, 500, 6_000])
def test_convolution_is_exact(num_samples, num_taps):
    rng = np.random.default_rng(0)
    samples, response = (rng.standard_normal(n).astype(np.float32) for n in (num_samples, num_taps))
    expected = np.convolve(samples.astype(np.float64), response)
    got = convolved(samples, response)
    assert got.dtype == np.float32
    assert got == pytest.approx(expected, abs=2e-6 * np.abs(expected).max() * np.log2(len(expected) + 2))


def test_the_delay_is_taken_away():
    samples = np.array([1, 2, 3, 4], np.float32)
    heard = reverberated(samples, np.array([0, 0, 3, 0], np.float32), 2)
    assert heard == pytest.approx(samples, rel=1e-5)
