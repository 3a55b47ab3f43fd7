from __future__ import annotations

import numpy as np
import pytest

from myna.data.checks import ClipLimits, check_clip, check_transcript, ctc_frames_needed, measure
from myna.samples import AudioClip, RefusalReason

RATE_HZ = 16_000


def clip(seconds: float = 1.0, level: float = 0.5) -> AudioClip:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return AudioClip((level * np.sin(2 * np.pi * 100 * times)).astype(np.float32), RATE_HZ)


def reason(found: AudioClip, claimed_seconds: float | None = None, **limits: float) -> RefusalReason | None:
    finding = check_clip(measure(found), ClipLimits(**limits), claimed_seconds)
    return finding[0] if finding else None


def with_sample(value: float) -> AudioClip:
    samples = clip().samples.copy()
    samples[100] = value
    return AudioClip(samples, RATE_HZ)


def test_measurements_of_a_sine():
    measured = measure(clip(level=0.5))
    assert measured.duration_seconds == 1.0
    assert measured.peak == pytest.approx(0.5)
    assert measured.clipped_share == 0
    assert measured.is_finite


def test_a_sine_cut_at_full_scale_is_clipped_for_most_of_its_time():
    # |sin| >= 0.99 / 4 for all but 2 * asin(0.2475) / pi of a period
    measured = measure(AudioClip(np.clip(clip(level=4.0).samples, -1, 1), RATE_HZ))
    assert measured.clipped_share == pytest.approx(1 - 2 * np.arcsin(0.2475) / np.pi, abs=0.01)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (clip(), None),
        (clip(0.5), None),
        (clip(0.49), RefusalReason.TOO_SHORT),
        (clip(30.0), None),
        (clip(30.01), RefusalReason.TOO_LONG),
        (clip(0.0), RefusalReason.EMPTY_AUDIO),
        (clip(level=0.0), RefusalReason.SILENT),
        (clip(level=0.00099), RefusalReason.SILENT),  # -60.1 dBFS
        (clip(level=0.00101), None),
        (clip(level=1.2), RefusalReason.CLIPPED),
        (with_sample(np.nan), RefusalReason.NOT_FINITE),
        (with_sample(-np.inf), RefusalReason.NOT_FINITE),
    ],
)
def test_each_reason_at_its_limit(found, expected):
    assert reason(found) == expected


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [(1.0, None), (1.29, None), (1.31, RefusalReason.TRUNCATED), (0.2, None), (None, None)],
)
def test_shorter_than_claimed(claimed, expected):
    assert reason(clip(1.0), claimed) == expected


def test_a_long_claim_may_be_five_percent_off():
    assert reason(clip(19.1), 20.0) is None
    assert reason(clip(18.9), 20.0) == RefusalReason.TRUNCATED


def test_limits_are_the_users():
    assert reason(clip(0.2), min_duration_seconds=0.1) is None
    assert reason(clip(level=1.2), max_clipped_share=1.0) is None
    assert reason(clip(level=0.01), min_peak_dbfs=-30) == RefusalReason.SILENT


def test_a_transcript_needs_something_speakable():
    assert check_transcript("?!", "") == (
        RefusalReason.EMPTY_TRANSCRIPT,
        "expected letters or digits in the transcript; received '?!'",
    )
    assert check_transcript("Hi!", "hi") is None


@pytest.mark.parametrize(("labels", "frames"), [([], 0), ([1], 1), ([1, 2, 1], 3), ([1, 1], 3), ([2, 2, 2, 1, 1], 8)])
def test_ctc_needs_a_frame_a_label_and_a_blank_between_repeats(labels, frames):
    assert ctc_frames_needed(labels) == frames


@pytest.mark.parametrize("labels", [[1], [1, 2, 3], [1, 1], [1, 1, 2, 2, 2], [3, 1, 3, 3]])
def test_the_rule_is_where_the_loss_becomes_finite(labels):
    import torch

    def loss(num_frames: int) -> float:
        scores = torch.zeros(num_frames, 1, 5).log_softmax(-1)
        return torch.nn.functional.ctc_loss(
            scores, torch.tensor([labels]), torch.tensor([num_frames]), torch.tensor([len(labels)])
        ).item()

    needed = ctc_frames_needed(labels)
    assert np.isfinite(loss(needed))
    assert needed == 1 or loss(needed - 1) == np.inf
