from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.noise import Noise, colored_noise
from myna.samples import AudioClip


@pytest.mark.parametrize("color", ["white", "pink", "brown", "blue", "violet"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_snr_is_exact(color, snr_db):
    times = np.arange(24_001) / 16_000
    clip = AudioClip((0.2 * np.sin(2 * np.pi * 300 * times)).astype(np.float32), 16_000)
    noisy = Noise().apply(clip, {"snr_db": snr_db, "color": color, "noise_seed": 1})
    added = noisy.samples.astype(np.float64) - clip.samples
    assert 10 * np.log10(np.mean(np.square(clip.samples)) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize(
    ("color", "db_per_octave"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02), ("blue", 3.01), ("violet", 6.02)]
)
def test_power_falls_with_frequency(color, db_per_octave):
    noise = colored_noise(2**19, color, 16_000, np.random.default_rng(0)).astype(np.float64)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / 16_000)
    octaves = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (125, 250, 500, 1_000, 2_000, 4_000)]
    slopes = np.diff(10 * np.log10(octaves))
    assert slopes == pytest.approx(np.full(5, db_per_octave), abs=0.3)


def test_samples_are_gaussian():
    noise = colored_noise(2**18, "pink", 16_000, np.random.default_rng(0))
    noise = (noise / noise.std()).astype(np.float64)
    assert abs(noise.mean()) < 0.05
    assert np.mean(noise**3) == pytest.approx(0, abs=0.05)
    assert np.mean(noise**4) == pytest.approx(3, abs=0.1)


def test_silence_stays_silent_and_one_sample_is_enough():
    parameters = {"snr_db": 10.0, "color": "brown", "noise_seed": 1}
    assert not Noise().apply(AudioClip(np.zeros(100, np.float32), 16_000), parameters).samples.any()
    one = Noise().apply(AudioClip(np.ones(1, np.float32), 16_000), parameters).samples
    assert one.shape == (1,)
    assert np.isfinite(one).all()


def test_only_the_colors_asked_for_are_drawn():
    noise = Noise(colors=("pink", "brown"))
    assert {noise.draw(np.random.default_rng(n))["color"] for n in range(30)} == {"pink", "brown"}
