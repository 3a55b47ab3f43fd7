from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.denoise import Denoise
from myna.audio.augment.level import power
from myna.samples import AudioClip


def noisy_bursts(rate_hz: int, noise: float = 0.003) -> tuple[AudioClip, np.ndarray]:
    """A second of harmonics between two seconds of noise alone, and which samples are the pause's."""
    times = np.arange(3 * rate_hz) / rate_hz
    speech = (np.abs(times - 1.5) < 0.5) * sum(0.1 * np.sin(2 * np.pi * 200 * k * times) for k in range(1, 8))
    samples = speech + noise * np.random.default_rng(0).standard_normal(len(times))
    return AudioClip(samples.astype(np.float32), rate_hz), (times > 0.1) & (times < 0.9)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
@pytest.mark.parametrize("reduction_db", [6.0, 12.0, 20.0])
def test_pauses_get_quieter_and_speech_stays(rate_hz, reduction_db):
    clip, pause = noisy_bursts(rate_hz)
    cleaned = Denoise().apply(clip, {"reduction_db": reduction_db}).samples
    quieter_db = 10 * np.log10(power(clip.samples[pause]) / power(cleaned[pause]))
    assert 0.6 * reduction_db < quieter_db <= reduction_db
    middle = slice(int(1.1 * rate_hz), int(1.9 * rate_hz))
    assert 10 * np.log10(power(clip.samples[middle]) / power(cleaned[middle])) == pytest.approx(0, abs=0.5)
    assert np.corrcoef(clip.samples[middle], cleaned[middle])[0, 1] > 0.99


def test_no_reduction_changes_nothing():
    clip, _ = noisy_bursts(16_000)
    assert Denoise().apply(clip, {"reduction_db": 0.0}).samples == pytest.approx(clip.samples, abs=1e-6)


def test_digital_silence_is_not_taken_for_the_noise():
    clip, pause = noisy_bursts(16_000)
    padded = AudioClip(np.concatenate([clip.samples, np.zeros(16_000, np.float32)]), 16_000)
    cleaned = Denoise().apply(padded, {"reduction_db": 12.0}).samples
    assert power(cleaned[:48_000][pause]) < 0.2 * power(clip.samples[pause])
    assert not cleaned[-8_000:].any()


def test_next_to_hardly_any_noise_everything_stays():
    clip, _ = noisy_bursts(16_000, noise=1e-9)
    loud = clip.samples * np.float32(100)
    cleaned = Denoise().apply(AudioClip(loud, 16_000), {"reduction_db": 20.0}).samples
    assert power(cleaned - loud) < 1e-3 * power(loud)  # the burst ends in the middle of a frame
