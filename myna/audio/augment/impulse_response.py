"""A microphone in a real room: recorded impulse responses from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile
import soxr
from pydantic import Field

from myna.audio.augment.recordings import recordings_in
from myna.audio.augment.reverb import reverberated
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.audio.readers import DECODER_FAULTS, short
from myna.errors import AudioError
from myna.samples import AudioClip, RefusalReason

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

MAX_RESPONSE_SECONDS = 5.0  # of a file; what comes later is not used
BEFORE_DIRECT_SECONDS = 0.0025  # kept of what a recording has before the direct sound


class ImpulseResponse(AudioTransform):
    """The clip as heard in a recorded room; direct sound and level stay as they were, echoes are added."""

    type: Literal["impulse_response"] = "impulse_response"
    folder: str = Field(min_length=1)  # of impulse responses, subfolders included: wav, flac

    def draw(self, rng: Generator) -> Parameters:
        return {"file": recordings_in(self.folder, read_response).pick(rng)}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        rate = clip.sample_rate_hz
        response = recordings_in(self.folder, read_response).load(parameters["file"], rate)
        return AudioClip(reverberated(clip.samples, response, round(BEFORE_DIRECT_SECONDS * rate)), rate)

    def check(self) -> list[str]:
        return recordings_in(self.folder, read_response).check()

    def contents(self) -> dict[str, str]:
        return {"folder": recordings_in(self.folder, read_response).digest}


def read_response(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """A response (M,) whose direct sound arrives after `BEFORE_DIRECT_SECONDS`.

    Of several channels the first is taken: their mean would be a microphone that listens in one direction.

    Raises:
        AudioError: the file cannot be read, or has no sound in it.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            recorded = file.read(int(MAX_RESPONSE_SECONDS * rate_hz), dtype="float32", always_2d=True)[:, 0]
    except DECODER_FAULTS as error:
        raise AudioError(RefusalReason.UNREADABLE, f"expected an impulse response; received {short(error)}") from None
    if not np.isfinite(recorded).all():
        raise AudioError(RefusalReason.NOT_FINITE, "expected finite samples; received NaN or infinity")
    if not recorded.any():
        raise AudioError(RefusalReason.SILENT, "expected an impulse response; received silence")
    response = soxr.resample(recorded, rate_hz, sample_rate_hz)
    before = round(BEFORE_DIRECT_SECONDS * sample_rate_hz)
    return np.pad(response, (before, 0))[_direct(response) :]


def _direct(response: NDArray[np.float32]) -> int:
    """Where the direct sound peaks: the first peak at least half as high as the highest."""
    heights = np.abs(response)
    place = int(np.argmax(heights >= heights.max() / 2))
    while place + 1 < len(heights) and heights[place + 1] > heights[place]:
        place += 1
    return place
