"""Clips cut too early, too late, or with silence around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.random import Generator


class Edges(AudioTransform):
    """Cuts some audio off either edge, then puts silence there, so that a model cannot count on how clips were cut.

    Cutting takes speech away: it suits clips of single words and commands, whose ends are lost in practice too. For
    sentences leave the shares at 0.
    """

    type: Literal["edges"] = "edges"
    max_start_cut_share: float = Field(default=0.0, ge=0, le=0.5)  # of the clip
    max_end_cut_share: float = Field(default=0.0, ge=0, le=0.5)
    cut_probability: float = Field(default=0.5, ge=0, le=1)  # of each edge on its own
    max_silence_seconds: float = Field(default=0.2, ge=0, le=10)  # at each edge
    silence_probability: float = Field(default=0.5, ge=0, le=1)  # of both edges together

    def draw(self, rng: Generator) -> Parameters:
        shares = (self.max_start_cut_share, self.max_end_cut_share)
        start_cut, end_cut = rng.uniform(0, shares) * (rng.random(2) < self.cut_probability)
        silence = rng.uniform(0, self.max_silence_seconds, 2) * (rng.random() < self.silence_probability)
        return {
            "start_cut_share": float(start_cut),
            "end_cut_share": float(end_cut),
            "start_silence_seconds": float(silence[0]),
            "end_silence_seconds": float(silence[1]),
        }

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        length, rate = len(clip.samples), clip.sample_rate_hz
        first = round(length * parameters["start_cut_share"])
        last = max(first + 1, length - round(length * parameters["end_cut_share"]))
        before, after = (round(rate * parameters[f"{edge}_silence_seconds"]) for edge in ("start", "end"))
        return AudioClip(np.pad(clip.samples[first:last], (before, after)), rate)

    def longest_seconds(self, seconds: float) -> float:
        return seconds + 2 * self.max_silence_seconds
