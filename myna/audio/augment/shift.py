"""Speech that starts earlier or later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.random import Generator


class Shift(AudioTransform):
    """Moves the samples by `shift_seconds`, later when positive; silence fills what they leave, the length stays.

    What is moved over an edge is lost: shift by no more than the clips have silence at their edges. Half of a clip
    stays whatever the draw.
    """

    type: Literal["shift"] = "shift"
    min_shift_seconds: float = Field(default=-0.1, ge=-10, le=10)
    max_shift_seconds: float = Field(default=0.1, ge=-10, le=10)

    def draw(self, rng: Generator) -> Parameters:
        return {"shift_seconds": float(rng.uniform(self.min_shift_seconds, self.max_shift_seconds))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        length = len(clip.samples)
        shift = round(parameters["shift_seconds"] * clip.sample_rate_hz)
        shift = min(max(shift, -(length // 2)), length // 2)
        shifted = np.zeros_like(clip.samples)
        shifted[max(0, shift) : length + min(0, shift)] = clip.samples[max(0, -shift) : length - max(0, shift)]
        return AudioClip(shifted, clip.sample_rate_hz)
