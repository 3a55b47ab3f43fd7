"""An old microphone or recorder: no sound above half a low sample rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import soxr
from pydantic import Field

from myna.audio.augment.length import fitted
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    import numpy as np


class Resample(AudioTransform):
    """Samples the clip down to `rate_hz` and back up; a clip whose own rate is no higher stays as it is."""

    type: Literal["resample"] = "resample"
    min_rate_hz: int = Field(default=4_000, ge=1_000, le=48_000)
    max_rate_hz: int = Field(default=12_000, ge=1_000, le=48_000)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"rate_hz": int(rng.integers(self.min_rate_hz, self.max_rate_hz + 1))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        rate, low_rate = clip.sample_rate_hz, parameters["rate_hz"]
        if low_rate >= rate:
            return AudioClip(clip.samples.copy(), rate)
        narrow = soxr.resample(soxr.resample(clip.samples, rate, low_rate), low_rate, rate)
        return AudioClip(fitted(narrow, len(clip.samples)), rate)
