"""Time and frequency axes stretched: another tempo, another vocal tract."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from myna.audio.augment.transform import FeatureTransform, Parameters

if TYPE_CHECKING:
    import numpy as np
    import torch

MIN_FRAMES = 8


class Warp(FeatureTransform):
    """Stretches log-mels along time and along frequency, each by a factor of its own.

    Stretching frequency is vocal tract length perturbation (Jaitly and Hinton 2013), here on the mel axis; unlike a
    change of speed it leaves the tempo alone. Factors are drawn evenly on a logarithmic scale.
    """

    type: Literal["warp"] = "warp"
    min_time_factor: float = Field(default=0.8, ge=0.5, le=2)  # above 1 the clip gets longer
    max_time_factor: float = Field(default=1.25, ge=0.5, le=2)
    min_frequency_factor: float = Field(default=0.88, ge=0.5, le=2)  # above 1 formants move down
    max_frequency_factor: float = Field(default=1.14, ge=0.5, le=2)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {
            "time_factor": _log_uniform(rng, self.min_time_factor, self.max_time_factor),
            "frequency_factor": _log_uniform(rng, self.min_frequency_factor, self.max_frequency_factor),
        }

    def apply(self, features: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        import torch

        num_frames, num_bins = features.shape
        num_warped = max(MIN_FRAMES, round(num_frames * parameters["time_factor"]))
        bins = (torch.arange(num_bins) * parameters["frequency_factor"]).clamp(max=num_bins - 1)
        # grid_sample wants positions from -1 to 1; bins beyond the last repeat it
        across = (bins / (num_bins - 1) * 2 - 1).expand(num_warped, num_bins)
        along = torch.linspace(-1, 1, num_warped)[:, None].expand(num_warped, num_bins)
        grid = torch.stack([across, along], dim=-1)[None]  # (1, T', n_mels, 2)
        image = features[None, None]  # (1, 1, T, n_mels)
        return torch.nn.functional.grid_sample(image, grid, align_corners=True)[0, 0]  # (T', n_mels)

    def longest_seconds(self, seconds: float) -> float:
        return seconds * self.max_time_factor


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
