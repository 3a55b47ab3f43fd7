"""Spectrograms and features as PNG."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import av
import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.samples import AudioClip

COLUMNS_PER_SECOND = 100
WINDOW_SECONDS = 0.032
RANGE_DB = 70.0  # from the loudest colour to the darkest
# Ten even steps of viridis (van der Walt and Smith 2015, CC0): as much brighter to the eye as the value is higher.
VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")


def spectrogram_db(clip: AudioClip) -> NDArray[np.float32]:
    """Power in dB (F, T), the highest frequency first; a column every 10 ms."""
    width, hop = round(WINDOW_SECONDS * clip.sample_rate_hz), clip.sample_rate_hz // COLUMNS_PER_SECOND
    padded = np.pad(clip.samples, (width // 2, width))
    num_columns = 1 + len(clip.samples) // hop
    frames = sliding_window_view(padded, width)[::hop][:num_columns] * np.hanning(width).astype(np.float32)
    power = np.square(np.abs(scipy.fft.rfft(frames))) / (width / 4) ** 2  # a sine of full scale is 0 dB
    decibels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, 1e-12)).T[::-1]
    return decibels


def as_png(values: NDArray[np.float32], lowest: float, highest: float, num_columns: int) -> bytes:
    """Values (rows, columns) in colours, dark for `lowest` and below; empty columns fill up to `num_columns`."""
    shades = np.clip((values - lowest) / (highest - lowest), 0, 1) * 255
    pixels = np.full((len(values), max(num_columns, values.shape[1]), 3), 128, np.uint8)
    pixels[:, : values.shape[1]] = _palette()[np.rint(shades).astype(np.uint8)]
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt = "rgb24"
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return b"".join(bytes(packet) for each in (frame, None) for packet in encoder.encode(each))


@cache
def _palette() -> NDArray[np.uint8]:
    """Colours (256, 3)."""
    steps = np.array([[int(color[place : place + 2], 16) for place in (0, 2, 4)] for color in VIRIDIS])
    places = np.linspace(0, len(VIRIDIS) - 1, 256)
    channels = [np.interp(places, np.arange(len(VIRIDIS)), steps[:, channel]) for channel in range(3)]
    return np.array(np.rint(channels).T, np.uint8)
