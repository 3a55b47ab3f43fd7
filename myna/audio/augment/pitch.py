"""Another pitch at the same tempo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import soxr
from pydantic import Field

from myna.audio.augment.stretch import stretched
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    import numpy as np


class Pitch(AudioTransform):
    """Raises or lowers everything by `semitones`, formants included; the length stays.

    The clip is resampled, which changes pitch and length, and then stretched back to its length.
    """

    type: Literal["pitch"] = "pitch"
    min_semitones: float = Field(default=-2.0, ge=-12, le=12)
    max_semitones: float = Field(default=2.0, ge=-12, le=12)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"semitones": float(rng.uniform(self.min_semitones, self.max_semitones))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        factor = 2 ** (parameters["semitones"] / 12)
        rate = clip.sample_rate_hz
        shifted = soxr.resample(clip.samples, rate * factor, rate)  # about N / factor samples
        return AudioClip(stretched(shifted, 1 / factor, rate, len(clip.samples)), rate)
