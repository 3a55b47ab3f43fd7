"""Another microphone: a smooth random curve of gain over frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from myna.audio.augment.transform import FeatureTransform, Parameters

if TYPE_CHECKING:
    import torch

NUM_KNOTS = 5


class Equalize(FeatureTransform):
    """Adds a curve through five random gains, evenly spaced over the mel axis, to every frame.

    Its unit is that of normalised features: about one standard deviation of a clip's log-mels, some 10 dB of speech.
    Under the normalisation "utterance" use it for what the mean over a clip takes away, not for the microphone.
    """

    type: Literal["equalize"] = "equalize"
    gain_deviation: float = Field(default=0.4, ge=0, le=5)  # standard deviation of the gains

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"gains": rng.normal(0.0, self.gain_deviation, NUM_KNOTS).tolist()}

    def apply(self, features: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        import torch

        num_bins = features.shape[1]
        knots = np.linspace(0, num_bins - 1, NUM_KNOTS)
        curve = np.interp(np.arange(num_bins), knots, parameters["gains"]).astype(np.float32)  # (n_mels,)
        return features + torch.from_numpy(curve)
