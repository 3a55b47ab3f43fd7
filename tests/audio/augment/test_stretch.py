from __future__ import annotations

import numpy as np
import pytest
from pitches import cents_off, tone

from myna.audio.augment.stretch import Stretch, window_sums
from myna.samples import AudioClip


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.9546061, 1.0, 1.1, 1.7, 2.0])
@pytest.mark.parametrize("num_samples", [1, 1_600, 7_777, 40_000])
def test_length_is_exact(factor, num_samples):
    clip = AudioClip(np.random.default_rng(0).standard_normal(num_samples).astype(np.float32), 16_000)
    assert len(Stretch().apply(clip, {"factor": factor}).samples) == round(num_samples / factor)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
@pytest.mark.parametrize("factor", [0.7, 0.9, 1.05, 1.3])
@pytest.mark.parametrize("hz", [110.0, 220.0, 997.0, 3_000.0])
def test_pitch_and_level_stay(rate_hz, factor, hz):
    slower = Stretch().apply(tone(hz, rate_hz), {"factor": factor}).samples
    assert abs(cents_off(slower, rate_hz, hz)) < 5
    inner = slower[rate_hz // 10 : -rate_hz // 10]
    assert np.sqrt(2 * np.mean(inner**2)) == pytest.approx(1.0, abs=0.03)  # waves meet in step


def test_a_factor_of_one_changes_nothing():
    samples = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    same = Stretch().apply(AudioClip(samples, 16_000), {"factor": 1.0}).samples
    assert np.allclose(same, samples, atol=1e-6)


def test_sounds_come_when_they_should():
    samples = np.zeros(32_000, np.float32)
    samples[20_000:20_400] = 1.0
    loud = np.flatnonzero(Stretch().apply(AudioClip(samples, 16_000), {"factor": 0.8}).samples > 0.5)
    assert abs((loud[0] + loud[-1]) / 2 - 20_200 / 0.8) < 0.02 * 16_000


@pytest.mark.parametrize("width", [1, 2, 7, 80, 160])
def test_window_sums_lose_nothing_after_something_loud(width):
    values = np.ones(400, np.float32)
    values[:200] = 1e9
    assert window_sums(values, width)[-1] == width
    assert window_sums(values, width) == pytest.approx(np.convolve(values, np.ones(width), "valid"), rel=1e-6)


def test_draws_stay_in_the_range():
    factors = [Stretch(min_factor=0.8, max_factor=1.2).draw(np.random.default_rng(n))["factor"] for n in range(200)]
    assert 0.8 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.2
