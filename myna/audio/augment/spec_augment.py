"""SpecAugment: masks over time and over frequency (Park et al. 2019), without time warping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from myna.audio.augment.transform import FeatureTransform, Parameters

if TYPE_CHECKING:
    import numpy as np
    import torch


class SpecAugment(FeatureTransform):
    """Sets stretches of frames and bands of bins to 0, the mean of utterance-normalised features.

    The draws are widths and relative positions, so that they do not depend on the clip's length.
    """

    type: Literal["spec_augment"] = "spec_augment"
    num_time_masks: int = Field(default=2, ge=0, le=100)
    max_time_frames: int = Field(default=40, ge=1)  # widest time mask
    max_time_share: float = Field(default=0.2, ge=0, le=1)  # of the clip, all time masks together
    num_frequency_masks: int = Field(default=2, ge=0, le=100)
    max_frequency_bins: int = Field(default=27, ge=1)  # widest frequency mask
    max_frequency_share: float = Field(default=0.5, ge=0, le=1)  # of the bins, all frequency masks together

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {
            "time_masks": _draw_masks(rng, self.num_time_masks, self.max_time_frames),
            "frequency_masks": _draw_masks(rng, self.num_frequency_masks, self.max_frequency_bins),
        }

    def apply(self, features: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        masked = features.clone()
        num_frames, num_bins = features.shape
        for start, end in _placed(parameters["time_masks"], num_frames, self.max_time_share):
            masked[start:end] = 0.0
        for start, end in _placed(parameters["frequency_masks"], num_bins, self.max_frequency_share):
            masked[:, start:end] = 0.0
        return masked


def _draw_masks(rng: np.random.Generator, count: int, max_width: int) -> list[dict[str, float]]:
    """Widths from 0 to `max_width`, and where in [0, 1) of the room that is left each mask starts."""
    return [{"width": int(rng.integers(max_width + 1)), "position": float(rng.random())} for _ in range(count)]


def _placed(masks: list[dict[str, float]], size: int, max_share: float) -> list[tuple[int, int]]:
    """Start and end of each mask on an axis of `size`; each keeps to its part of the share."""
    placed = []
    for mask in masks:
        width = min(int(mask["width"]), int(max_share * size / len(masks)))
        start = int(mask["position"] * (size - width + 1))
        placed.append((start, start + width))
    return placed
