"""Transforms in a row, and the generator that makes their draws a function of (seed, epoch, utterance)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from myna.audio.augment.background import Background
from myna.audio.augment.codec import Codec
from myna.audio.augment.denoise import Denoise
from myna.audio.augment.edges import Edges
from myna.audio.augment.equalize import Equalize
from myna.audio.augment.far_field import FarField
from myna.audio.augment.impulse_response import ImpulseResponse
from myna.audio.augment.noise import Noise
from myna.audio.augment.pitch import Pitch
from myna.audio.augment.recordings import recordings_in
from myna.audio.augment.resample import Resample
from myna.audio.augment.shift import Shift
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.audio.augment.stretch import Stretch
from myna.audio.augment.telephone import Telephone
from myna.audio.augment.transform import AudioTransform, FeatureTransform, Parameters
from myna.audio.augment.volume import Volume
from myna.audio.augment.warp import Warp
from myna.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from myna.samples import AudioClip

AnyTransform = Annotated[
    Background
    | Codec
    | Denoise
    | Edges
    | Equalize
    | FarField
    | ImpulseResponse
    | Noise
    | Pitch
    | Resample
    | Shift
    | SpecAugment
    | Speed
    | Stretch
    | Telephone
    | Volume
    | Warp,
    Field(discriminator="type"),
]

KEPT_BYTES = 30_000_000  # below glibc's own bound of 32 MiB

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

    def check(self) -> list[str]:
        """Look at folders and packages that the transforms need; for the moment when a run begins.

        Folders are listed anew. Transforms that never fire are passed over.

        Returns:
            A sentence for each file that is left out.

        Raises:
            ConfigError: with every mistake.
            MissingExtraError: a package is missing.
        """
        recordings_in.cache_clear()
        notes: list[str] = []
        mistakes: list[str] = []
        for number, transform in enumerate(self.transforms):
            if transform.probability > 0:
                try:
                    notes += transform.check()
                except ConfigError as error:
                    where = f"augment[{number}] ({transform.model_dump()['type']})"
                    mistakes += [f"{where}.{mistake}" for mistake in error.mistakes]
        if mistakes:
            raise ConfigError(mistakes)
        return notes

    def fingerprint(self) -> str:
        """A digest that changes with everything that settings and folders have a say in.

        It says what is in the folders, names and bytes, and not where they are: on another machine that may be
        another place.
        """
        described = [transform.model_dump(mode="json") | transform.contents() for transform in self.transforms]
        return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()

    def longest_seconds(self, seconds: float) -> float:
        """How long a clip of so many seconds can become, should all transforms fire and draw their extremes."""
        for kind in (AudioTransform, FeatureTransform):
            for transform in self.transforms:
                if isinstance(transform, kind) and transform.probability > 0:
                    seconds = max(seconds, transform.longest_seconds(seconds))
        return seconds

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
        _keep_freed_memory()
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


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next array instead of handing it back to the system; once in a process.

    Transforms make many short-lived arrays of about a megabyte. By default each of them is new memory, which the
    system clears page by page: half of some transforms' time. glibc stops that for sizes up to the largest block that
    was freed so far (mallopt(3), "dynamic mmap threshold"); elsewhere this does nothing.
    """
    np.empty(KEPT_BYTES, np.uint8)
