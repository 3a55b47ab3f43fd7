"""Louder or quieter."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip


class Volume(AudioTransform):
    """Scales the samples by a gain; nothing is clipped, samples may pass full scale."""

    type: Literal["volume"] = "volume"
    min_gain_db: float = Field(default=-12.0, ge=-60, le=60)
    max_gain_db: float = Field(default=6.0, ge=-60, le=60)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"gain_db": float(rng.uniform(self.min_gain_db, self.max_gain_db))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        gain = np.float32(10 ** (parameters["gain_db"] / 20))
        return AudioClip(clip.samples * gain, clip.sample_rate_hz)
