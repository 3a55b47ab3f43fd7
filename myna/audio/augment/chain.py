"""Transforms in a row, and the generator that makes their draws a function of (seed, epoch, utterance)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from myna.audio.augment.edges import Edges
from myna.audio.augment.equalize import Equalize
from myna.audio.augment.noise import Noise
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.audio.augment.transform import AudioTransform, FeatureTransform, Parameters
from myna.audio.augment.volume import Volume
from myna.audio.augment.warp import Warp

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from myna.samples import AudioClip

AnyTransform = Annotated[Edges | Speed | Volume | Noise | Warp | Equalize | SpecAugment, Field(discriminator="type")]

# One entry a transform, in the chain's order; None where it does not fire for this clip.
Draws = tuple[Parameters | None, ...]


def rng_for(seed: int, epoch: int, utterance_id: str) -> np.random.Generator:
    """The generator of one utterance's draws in one epoch, the same on every machine and in every process."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{utterance_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


@dataclass(frozen=True, slots=True, init=False)
class Chain:
    """Transforms applied one after the other: first those of samples, then those of features."""

    transforms: tuple[AudioTransform | FeatureTransform, ...]

    def __init__(self, transforms: Sequence[AudioTransform | FeatureTransform]) -> None:
        object.__setattr__(self, "transforms", tuple(transforms))

    def draw(self, rng: np.random.Generator) -> Draws:
        """Which transforms fire for one clip, and with which parameters.

        Each transform draws from a child generator of its own, so its draws do not depend on whether those before it
        fire.
        """
        draws: list[Parameters | None] = []
        for transform, child in zip(self.transforms, rng.spawn(len(self.transforms)), strict=True):
            fires = child.random() < transform.probability
            draws.append(transform.draw(child) if fires else None)
        return tuple(draws)

    def apply_audio(self, clip: AudioClip, draws: Draws) -> AudioClip:
        """The clip after all transforms of samples that fire."""
        for transform, parameters in zip(self.transforms, draws, strict=True):
            if parameters is not None and isinstance(transform, AudioTransform):
                clip = transform.apply(clip, parameters)
        return clip

    def apply_features(self, features: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Features (T, n_mels) after all transforms of features that fire."""
        for transform, parameters in zip(self.transforms, draws, strict=True):
            if parameters is not None and isinstance(transform, FeatureTransform):
                features = transform.apply(features, parameters)
        return features
