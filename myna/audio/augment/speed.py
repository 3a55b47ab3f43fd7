"""Speed perturbation: tempo and pitch together, as if the tape ran faster (Ko et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import soxr
from pydantic import Field

from myna.audio.augment.length import fitted
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    import numpy as np


class Speed(AudioTransform):
    """Plays the clip `factor` times as fast; it gets 1 / factor as long."""

    type: Literal["speed"] = "speed"
    min_factor: float = Field(default=0.9, ge=0.5, le=2)
    max_factor: float = Field(default=1.1, ge=0.5, le=2)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"factor": float(rng.uniform(self.min_factor, self.max_factor))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        factor = parameters["factor"]
        resampled = soxr.resample(clip.samples, clip.sample_rate_hz * factor, clip.sample_rate_hz)
        return AudioClip(fitted(resampled, round(len(clip.samples) / factor)), clip.sample_rate_hz)

    def longest_seconds(self, seconds: float) -> float:
        return seconds / self.min_factor
