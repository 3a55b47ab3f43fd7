from __future__ import annotations

import numpy as np
import pytest

from myna.samples import AudioClip
from myna.transcribe.windows import OVERLAP_SECONDS, windows

RATE = 1_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.3, size=round(seconds * RATE)).astype(np.float32)


def test_short_audio_is_one_window() -> None:
    clip = AudioClip(noise(10), RATE)
    (window,) = windows(clip, 10.0)
    assert (window.start_seconds, len(window.clip.samples), window.overlaps) == (0.0, 10 * RATE, False)


def test_windows_cut_in_pauses() -> None:
    samples = noise(60)
    samples[24_000:24_600] = 0  # two pauses within reach of the limit of 30 s
    samples[27_000:27_200] *= 0.5
    samples[50_000:50_600] = 0
    found = windows(AudioClip(samples, RATE), 30.0)
    assert [window.start_seconds for window in found] == pytest.approx([0.0, 24.3, 50.3], abs=0.2)
    assert not any(window.overlaps for window in found)
    assert np.array_equal(np.concatenate([window.clip.samples for window in found]), samples)


@pytest.mark.parametrize(("quieter_db", "overlaps"), [(40, False), (23, False), (17, True), (0, True)])
def test_windows_overlap_where_somebody_speaks(quieter_db: float, overlaps: bool) -> None:
    samples = noise(40)
    samples[25_000:25_600] *= 10 ** (-quieter_db / 20)
    first, second = windows(AudioClip(samples, RATE), 30.0)
    assert (first.overlaps, second.overlaps) == (overlaps, overlaps)
    assert first.cut_after_seconds == second.cut_before_seconds
    assert (first.cut_before_seconds, second.cut_after_seconds) == (None, None)
    if overlaps:
        assert first.cut_after_seconds is not None
        assert first.end_seconds == pytest.approx(first.cut_after_seconds + OVERLAP_SECONDS)
        assert second.start_seconds == pytest.approx(first.cut_after_seconds - OVERLAP_SECONDS)
    else:
        assert first.end_seconds == pytest.approx(second.start_seconds)


def test_a_loud_moment_does_not_make_speech_a_pause() -> None:
    samples = noise(40)
    samples[3_000:4_000] *= 30
    assert all(window.overlaps for window in windows(AudioClip(samples, RATE), 30.0))


@pytest.mark.parametrize("kind", ["noise", "silence"])
@pytest.mark.parametrize("seconds", [0.0, 0.005, 31.7, 95.0])
@pytest.mark.parametrize("limit", [0.01, 1.0, 30.0])
def test_windows_are_the_clip_and_never_too_long(kind: str, seconds: float, limit: float) -> None:
    samples = noise(seconds) if kind == "noise" else np.zeros(round(seconds * RATE), dtype=np.float32)
    found = windows(AudioClip(samples, RATE), limit)
    assert all(window.clip.duration_seconds <= limit for window in found)
    assert len(found) <= 1 + 2 * seconds / limit
    whole, length = [], 0
    for window in found:
        start = round(window.start_seconds * RATE)
        assert start <= length  # no gap
        assert (start < length) == (window.cut_before_seconds is not None)
        assert np.array_equal(window.clip.samples, samples[start : start + len(window.clip.samples)])
        whole.append(window.clip.samples[length - start :])
        length = start + len(window.clip.samples)
    assert np.array_equal(np.concatenate(whole), samples)
    assert kind == "noise" or not any(window.overlaps for window in found)
