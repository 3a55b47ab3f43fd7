"""What every augmentation has in common. To add one:

1. write `myna/audio/augment/<name>.py` with a class derived from `AudioTransform` or `FeatureTransform`, a field
   `type: Literal["<name>"] = "<name>"`, and typed settings with units in their names;
2. `draw` takes everything random from the generator and returns it as plain JSON values; `apply` is a pure function of
   its arguments;
3. override what else is true of it: `check` (a folder or package that it needs), `contents` (files that its output
   depends on), `longest_seconds` (it can make clips longer);
4. add the class to `AnyTransform` in `chain.py`, and a test file of the same name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    import torch

    from myna.samples import AudioClip

# The outcome of a transform's draws: JSON values, so that it can be logged and replayed.
Parameters = dict[str, Any]


class Transform(BaseModel, ABC):
    """One way to change training audio, with the settings of its random draws."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    probability: float = Field(default=1.0, ge=0, le=1)  # share of clips that it changes

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Parameters:
        """Parameters for one clip; all of the transform's randomness is here."""

    def check(self) -> list[str]:
        """Look at what the transform needs beyond its settings; for the moment when a run begins.

        Returns:
            What is left out, such as a noise file that cannot be read; a sentence each.

        Raises:
            ConfigError: the settings point at something that cannot be used.
            MissingExtraError: a package is missing.
        """
        return []

    def contents(self) -> dict[str, str]:
        """What else its results depend on: for a folder a digest of what is in it (its place is no part of it), for a
        package of its own the version."""
        return {}

    def longest_seconds(self, seconds: float) -> float:
        """How long a clip of so many seconds can become."""
        return seconds

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in type(self).model_fields:
            upper = name.replace("min_", "max_", 1)
            if name.startswith("min_") and getattr(self, name) > getattr(self, upper):
                raise ValueError(f"at most {upper}={getattr(self, upper)} for {name}={getattr(self, name)}")
        return self


class AudioTransform(Transform):
    """A transform of samples."""

    @abstractmethod
    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        """A changed copy of the clip, float32 at the same sample rate."""


class FeatureTransform(Transform):
    """A transform of features."""

    @abstractmethod
    def apply(self, features: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """A changed copy of features (T, n_mels)."""
