"""Speech enhancement: what a recorder that suppresses noise makes of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.fft
from pydantic import Field

from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOP_SECONDS = 0.016  # frames are two hops long
QUIET_SHARE = 0.1  # of the frames, the quietest: they hold what noise there is
KNEE_DB = 8.0  # above the noise; the gate is half open there


class Denoise(AudioTransform):
    """Spectral gating: bins of the spectrum that hardly rise above the noise are lowered by up to `reduction_db`.

    The noise is taken from the clip's own quietest frames. Speech that such a gate has mangled is what phones and
    conference software send, so a recogniser should have heard some.
    """

    type: Literal["denoise"] = "denoise"
    min_reduction_db: float = Field(default=6.0, ge=0, le=60)
    max_reduction_db: float = Field(default=20.0, ge=0, le=60)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"reduction_db": float(rng.uniform(self.min_reduction_db, self.max_reduction_db))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        hop = round(HOP_SECONDS * clip.sample_rate_hz)
        window = np.sin(np.pi * (np.arange(2 * hop, dtype=np.float32) + 0.5) / (2 * hop)).astype(np.float32)
        num_blocks = -(-len(clip.samples) // hop) + 2  # a block of silence on either side
        blocks = np.zeros((num_blocks, hop), np.float32)
        blocks.reshape(-1)[hop : hop + len(clip.samples)] = clip.samples
        frames = np.concatenate([blocks[:-1], blocks[1:]], axis=1)  # (T, 2 * hop)
        frames *= window
        spectrum: NDArray[np.complex64] = scipy.fft.rfft(frames)  # (T, hop + 1)
        spectrum *= _gate(spectrum, 10 ** (-parameters["reduction_db"] / 20))
        frames = scipy.fft.irfft(spectrum, 2 * hop)
        frames *= window  # squared windows of neighbours sum to 1
        cleaned: NDArray[np.float32] = (frames[:-1, hop:] + frames[1:, :hop]).reshape(-1)
        return AudioClip(cleaned[: len(clip.samples)], clip.sample_rate_hz)


def _gate(spectrum: NDArray[np.complex64], floor: float) -> NDArray[np.float32]:
    """Gains (T, F) from `floor` to 1."""
    power: NDArray[np.float32] = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    half_open = np.float32(10 ** (KNEE_DB / 10)) * _noise(power) + np.float32(1e-15)
    above = np.minimum(power / half_open, np.float32(1e6))  # more is as open, and its square might overflow
    gate: NDArray[np.float32] = np.square(above)  # makes the knee sharper
    gate /= gate + np.float32(1)
    _smooth(gate)
    gate *= np.float32(1 - floor)
    gate += np.float32(floor)
    return gate


def _noise(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean power (F,) of the quietest frames (T, F) that are not digital silence."""
    loudness = power.sum(axis=1)
    order = np.argsort(loudness, kind="stable")
    order = order[np.count_nonzero(loudness <= 0) :]
    if not len(order):
        return np.zeros(power.shape[1], np.float32)
    noise: NDArray[np.float32] = power[order[: max(1, int(QUIET_SHARE * len(order)))]].mean(axis=0)
    return noise


def _smooth(gate: NDArray[np.float32]) -> None:
    """Mean over three frames and over three bins, in place: single bins that open and close would sing."""
    for rows in (gate, gate.T):
        before, after = rows[:-2].copy(), rows[2:].copy()
        inner = rows[1:-1]
        inner += before
        inner += after
        inner *= np.float32(1 / 3)
