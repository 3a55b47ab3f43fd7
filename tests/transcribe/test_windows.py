from __future__ import annotations

import numpy as np
import pytest

from myna.samples import AudioClip
from myna.transcribe.windows import windows

RATE = 1_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.3, size=round(seconds * RATE)).astype(np.float32)


def test_short_audio_is_one_window() -> None:
    clip = AudioClip(noise(10), RATE)
    assert [(start, len(piece.samples)) for start, piece in windows(clip, 10.0)] == [(0.0, 10 * RATE)]


def test_windows_cut_in_pauses() -> None:
    samples = noise(60)
    samples[24_000:24_600] = 0  # two pauses within reach of the limit of 30 s
    samples[27_000:27_200] *= 0.5
    samples[50_000:50_600] = 0
    starts = [start for start, _ in windows(AudioClip(samples, RATE), 30.0)]
    assert starts == pytest.approx([0.0, 24.3, 50.3], abs=0.2)


@pytest.mark.parametrize("kind", ["noise", "silence"])
@pytest.mark.parametrize("seconds", [0.0, 0.005, 31.7, 95.0])
@pytest.mark.parametrize("limit", [0.01, 1.0, 30.0])
def test_windows_are_the_clip_and_never_too_long(kind: str, seconds: float, limit: float) -> None:
    samples = noise(seconds) if kind == "noise" else np.zeros(round(seconds * RATE), dtype=np.float32)
    found = windows(AudioClip(samples, RATE), limit)
    assert np.array_equal(np.concatenate([piece.samples for _, piece in found]), samples)
    assert all(piece.duration_seconds <= limit for _, piece in found)
    starts = np.cumsum([0.0] + [piece.duration_seconds for _, piece in found[:-1]])
    assert [start for start, _ in found] == pytest.approx(starts)
    assert len(found) <= 1 + 2 * seconds / limit
