from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.speed import Speed
from myna.samples import AudioClip


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.9546061, 1.0, 1.1, 1.7, 2.0])
@pytest.mark.parametrize("num_samples", [1, 7_777, 16_000])
def test_length_is_exact(factor, num_samples):
    clip = AudioClip(np.zeros(num_samples, np.float32), 16_000)
    assert len(Speed().apply(clip, {"factor": factor}).samples) == round(num_samples / factor)


def test_pitch_rises_with_speed():
    times = np.arange(16_000) / 16_000
    tone = AudioClip(np.sin(2 * np.pi * 400 * times).astype(np.float32), 16_000)
    faster = Speed().apply(tone, {"factor": 1.25}).samples  # 12,800 samples, so bins are 1.25 Hz apart
    assert np.argmax(np.abs(np.fft.rfft(faster))) * 1.25 == 500
    assert np.abs(faster).max() == pytest.approx(1.0, abs=0.05)


def test_draws_stay_in_the_range():
    factors = [Speed(min_factor=0.8, max_factor=1.2).draw(np.random.default_rng(n))["factor"] for n in range(200)]
    assert 0.8 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.2
