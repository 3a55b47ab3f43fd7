from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.codec import Codec
from myna.samples import AudioClip


def chirps(rate_hz: int, seconds: float = 1.5) -> AudioClip:
    """Sweeps from 300 to 2,000 Hz, three a second."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    part = times * 3 % 1
    return AudioClip(
        (0.3 * np.sin(2 * np.pi * (100 * part + 283 * part**2)) * np.sin(np.pi * part)).astype(np.float32), rate_hz
    )


def lag(before: np.ndarray, after: np.ndarray) -> int:
    """How many samples later the second is, by cross-correlation."""
    length = 2 * len(before)
    likeness = np.fft.irfft(np.fft.rfft(after, length) * np.fft.rfft(before, length).conj(), length)
    peak = int(likeness.argmax())
    return peak if peak < length // 2 else peak - length


@pytest.mark.parametrize("codec", ["mp3", "mp2"])
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 20_000, 24_000, 44_100])
@pytest.mark.parametrize("bitrate_kbps", [32, 64])
def test_length_and_place_stay(codec, rate_hz, bitrate_kbps):
    clip = chirps(rate_hz)
    heard = Codec().apply(clip, {"codec": codec, "bitrate_kbps": bitrate_kbps}).samples
    assert len(heard) == len(clip.samples)
    assert abs(lag(clip.samples, heard)) <= 1
    assert np.corrcoef(clip.samples, heard)[0, 1] > 0.98


@pytest.mark.parametrize("codec", ["mp3", "mp2"])
def test_fewer_bits_lose_more(codec):
    rng = np.random.default_rng(0)
    clip = AudioClip((0.1 * rng.standard_normal(24_000)).astype(np.float32), 16_000)
    losses = [
        float(np.mean((Codec().apply(clip, {"codec": codec, "bitrate_kbps": rate}).samples - clip.samples) ** 2))
        for rate in (64, 32, 16)
    ]
    assert losses == sorted(losses)
    assert 1e-5 < losses[0] < losses[2] <= 1.1e-2


@pytest.mark.parametrize("codec", ["mp3", "mp2"])
def test_the_end_and_what_is_beyond_full_scale_come_through(codec):
    clip = chirps(16_000)
    loud = AudioClip(clip.samples * 10, 16_000)
    heard = Codec().apply(loud, {"codec": codec, "bitrate_kbps": 64}).samples
    assert np.corrcoef(loud.samples, heard)[0, 1] > 0.98
    assert np.abs(heard).max() > 2.5
    burst = np.zeros(9_999, np.float32)
    burst[-200:] = 0.5 * np.sin(np.arange(200) * 0.3)
    ended = Codec().apply(AudioClip(burst, 16_000), {"codec": codec, "bitrate_kbps": 64}).samples
    assert np.abs(ended[-200:]).max() > 0.3


def test_only_what_was_asked_for_is_drawn():
    codec = Codec(codecs=("mp2",), bitrates_kbps=(16, 24))
    draws = [codec.draw(np.random.default_rng(n)) for n in range(30)]
    assert {(row["codec"], row["bitrate_kbps"]) for row in draws} == {("mp2", 16), ("mp2", 24)}
