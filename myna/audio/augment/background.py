"""Sounds of a place behind the speech, from a folder of recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from myna.audio.augment.length import looped
from myna.audio.augment.level import with_noise
from myna.audio.augment.recordings import read_start, recordings_in
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MAX_NOISE_SECONDS = 600.0  # of a file; what comes later is not used


class Background(AudioTransform):
    """Adds a stretch of a recording whose power is `snr_db` below the clip's own, both over the whole clip.

    The stretch starts anywhere in the recording and starts over at its end.
    """

    type: Literal["background"] = "background"
    folder: str = Field(min_length=1)  # of noise recordings, subfolders included
    min_snr_db: float = Field(default=5.0, ge=-20, le=100)
    max_snr_db: float = Field(default=25.0, ge=-20, le=100)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {
            "file": recordings_in(self.folder, read_noise).pick(rng),
            "start_share": float(rng.random()),  # of the recording
            "snr_db": float(rng.uniform(self.min_snr_db, self.max_snr_db)),
        }

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        rate = clip.sample_rate_hz
        recording = recordings_in(self.folder, read_noise).load(parameters["file"], rate)
        noise = looped(recording, int(parameters["start_share"] * len(recording)), len(clip.samples))
        return AudioClip(with_noise(clip.samples, noise, parameters["snr_db"]), rate)

    def check(self) -> list[str]:
        return recordings_in(self.folder, read_noise).check()

    def contents(self) -> dict[str, str]:
        return {"folder": recordings_in(self.folder, read_noise).digest}


def read_noise(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """Samples (N,) of a recording, or of its first `MAX_NOISE_SECONDS`; raises AudioError."""
    return read_start(path, MAX_NOISE_SECONDS, sample_rate_hz).samples
