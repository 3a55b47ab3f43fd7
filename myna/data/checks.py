"""What makes a recording unusable: pure checks on what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from myna.samples import RefusalReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.samples import AudioClip, Utterance

Finding = tuple[RefusalReason, str]  # why, and expected against received

# A sample this close to full scale counts as clipped: resampling bends the flat tops of a clipped wave by about 1 %.
FULL_SCALE = 0.99
# Manifests round and encoders pad, so a clip counts as cut off only when it lacks more than both of these.
MISSING_SECONDS = 0.3
MISSING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """What a usable clip keeps to."""

    min_duration_seconds: float = 0.5
    max_duration_seconds: float = 30.0
    max_clipped_share: float = 0.05  # of all samples, [0, 1]
    min_peak_dbfs: float = -60.0  # dB relative to full scale


@dataclass(frozen=True, slots=True)
class ClipStatistics:
    """What the checks need to know of a decoded clip."""

    duration_seconds: float
    peak: float  # largest absolute sample, full scale is 1
    clipped_share: float  # samples at full scale, [0, 1]
    is_finite: bool


def measure(clip: AudioClip) -> ClipStatistics:
    """Everything that `check_clip` judges, so that limits can change without decoding again."""
    if not len(clip.samples):
        return ClipStatistics(0.0, 0.0, 0.0, True)
    magnitudes = np.abs(clip.samples)  # (num_samples,)
    peak = float(magnitudes.max())  # NaN wins over every number
    if not math.isfinite(peak):
        return ClipStatistics(clip.duration_seconds, 0.0, 0.0, False)
    return ClipStatistics(clip.duration_seconds, peak, float((magnitudes >= FULL_SCALE).mean()), True)


def check_clip(measured: ClipStatistics, limits: ClipLimits, claimed_seconds: float | None = None) -> Finding | None:
    """The first thing that makes the clip unusable.

    Args:
        measured: of the decoded clip.
        limits: what a usable clip keeps to.
        claimed_seconds: the length that the source states, None when it states none.
    """
    seconds = measured.duration_seconds
    if seconds == 0:
        return RefusalReason.EMPTY_AUDIO, "expected samples; received none"
    if not measured.is_finite:
        return RefusalReason.NOT_FINITE, "expected finite samples; received NaN or infinity"
    if claimed_seconds is not None and claimed_seconds - seconds > max(
        MISSING_SECONDS, MISSING_SHARE * claimed_seconds
    ):
        detail = f"expected {claimed_seconds:.2f} s, as the source states; received {seconds:.2f} s"
        return RefusalReason.TRUNCATED, detail
    if seconds < limits.min_duration_seconds:
        detail = f"expected at least {limits.min_duration_seconds:g} s; received {seconds:.2f} s"
        return RefusalReason.TOO_SHORT, detail
    if seconds > limits.max_duration_seconds:
        detail = f"expected at most {limits.max_duration_seconds:g} s; received {seconds:.2f} s"
        return RefusalReason.TOO_LONG, detail
    return _check_level(measured, limits)


def _check_level(measured: ClipStatistics, limits: ClipLimits) -> Finding | None:
    peak_dbfs = 20 * math.log10(measured.peak) if measured.peak > 0 else -math.inf
    if peak_dbfs < limits.min_peak_dbfs:
        detail = f"expected a peak of at least {limits.min_peak_dbfs:g} dBFS; received {peak_dbfs:.1f} dBFS"
        return RefusalReason.SILENT, detail
    if measured.clipped_share > limits.max_clipped_share:
        detail = (
            f"expected at most {limits.max_clipped_share:.1%} of samples at full scale; "
            f"received {measured.clipped_share:.1%}"
        )
        return RefusalReason.CLIPPED, detail
    return None


def check_transcript(transcript: str, text: str) -> Finding | None:
    """Refuse a transcript of which nothing speakable is left.

    Args:
        transcript: as published.
        text: the same after `myna.text.normalize`.
    """
    if text:
        return None
    return RefusalReason.EMPTY_TRANSCRIPT, f"expected letters or digits in the transcript; received {transcript!r:.80}"


def check_labelled(utterance: Utterance) -> Finding | None:
    """Refuse a recording that came in without a transcript, where one is to be learned or scored."""
    if utterance.text or utterance.transcript:
        return None
    return RefusalReason.EMPTY_TRANSCRIPT, "expected a transcript; received a recording that came in without one"


def ctc_frames_needed(labels: Sequence[int]) -> int:
    """The fewest encoder frames in which CTC can spell the labels: one each, and a blank between equal neighbours.

    With fewer frames no alignment exists and the loss is infinite. Graves et al. 2006, section 3.1.
    """
    return len(labels) + sum(left == right for left, right in pairwise(labels))
