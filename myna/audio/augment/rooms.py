"""Impulse responses of shoebox rooms: early reflections by pyroomacoustics, then a diffuse tail.

Image sources alone would need tens of thousands of images for the reverberation of a living room. They are therefore
followed up to the moment until which a few orders are complete, and go on as Gaussian noise that decays at the same
rate and starts as loud as they end (Lehmann and Johansson 2010, "Diffuse reverberation model for efficient image-source
simulation of room impulse responses").
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from myna.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

SPEED_OF_SOUND = 343.0  # m/s
MAX_ORDER = 8  # reflections of a followed path: 833 images
HALF_SINC = 8  # samples; an arrival is a windowed sinc over twice as many
CORRECTIONS = 2


@dataclass(frozen=True, slots=True)
class Room:
    """A shoebox with a speaker and a microphone in it; metres."""

    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    rt60_seconds: float  # until the sound has decayed by 60 dB


def pyroomacoustics() -> ModuleType:
    """The package; raises MissingExtraError where it is not installed."""
    try:
        return importlib.import_module("pyroomacoustics")
    except ImportError:
        raise MissingExtraError("pyroomacoustics", "augment") from None


def room_response(room: Room, sample_rate_hz: int, seed: int) -> tuple[NDArray[np.float32], int]:
    """A room's impulse response (M,), the direct sound 1 in it, and the sample at which that arrives.

    Args:
        room: what is simulated.
        sample_rate_hz: of the response.
        seed: of the tail's noise.
    """
    seconds, amplitudes = _arrivals(room)
    complete_seconds = MAX_ORDER * min(room.size) / SPEED_OF_SOUND  # until here no path of a higher order arrives
    direct = HALF_SINC
    length = direct + HALF_SINC + round(max(room.rt60_seconds, complete_seconds) * sample_rate_hz)
    response = _early(seconds * sample_rate_hz + direct, amplitudes, length)
    early_end = direct + round(complete_seconds * sample_rate_hz)
    response[early_end:] = _tail(response[:early_end], length, 1 / room.rt60_seconds / sample_rate_hz, seed)
    for _ in range(CORRECTIONS):
        there_seconds = rt60_seconds(response, sample_rate_hz)
        response *= _decay(length, (1 / room.rt60_seconds - 1 / there_seconds) / sample_rate_hz)
    return response / response[direct], direct


def rt60_seconds(response: NDArray[np.float32], sample_rate_hz: int) -> float:
    """Reverberation time by backward integration (Schroeder 1965), from the decay between -5 and -35 dB (T30)."""
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    start, end = (int(np.argmax(energy <= energy[0] * 10 ** (level_db / 10))) for level_db in (-5, -35))
    slope = np.polyfit(np.arange(start, end), 10 * np.log10(energy[start:end]), 1)[0]  # dB a sample
    return float(-60 / slope / sample_rate_hz)


def _arrivals(room: Room) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Seconds after the direct sound, and amplitude, of each image source up to `MAX_ORDER` reflections.

    Walls reflect with a negative sign: all-positive reflections would add up to a rumble at the lowest frequencies.
    """
    x, y, z = room.size
    volume, surface = x * y * z, 2 * (x * y + y * z + x * z)
    # Eyring (1930): share of the energy that walls take, for this reverberation time
    absorption = 1 - np.exp(-24 * np.log(10) / SPEED_OF_SOUND * volume / (surface * room.rt60_seconds))
    simulator = pyroomacoustics()
    walls = simulator.Material(float(absorption))
    shoebox = simulator.ShoeBox(room.size, materials=walls, max_order=MAX_ORDER)
    shoebox.add_source(room.source)
    shoebox.add_microphone(room.microphone)
    shoebox.image_source_model()
    images = shoebox.sources[0]
    meters = np.linalg.norm(images.images.T - np.array(room.microphone, np.float32), axis=1)  # (images,)
    signs = 1 - 2 * (images.orders % 2)
    return (meters - meters.min()) / SPEED_OF_SOUND, signs * images.damping[0] / meters


def _early(places: NDArray[np.float32], amplitudes: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Arrivals (images,) at places in samples, as windowed sincs in a response (length,); later ones are left out."""
    heard = places < length - HALF_SINC
    first = np.floor(places[heard])
    taps = np.arange(1 - HALF_SINC, HALF_SINC + 1)
    distances = taps - (places[heard] - first)[:, None]  # (images, taps)
    sincs = np.sinc(distances) * np.cos(distances * (np.pi / 2 / (HALF_SINC + 1))) ** 2 * amplitudes[heard, None]
    where = first.astype(np.int64)[:, None] + taps
    return np.bincount(where.ravel(), sincs.ravel(), minlength=length).astype(np.float32)


def _tail(early: NDArray[np.float32], length: int, decays_per_sample: float, seed: int) -> NDArray[np.float32]:
    """What follows `early` up to `length`: decaying noise, with the energy that the latter half of `early` leads to."""
    middle, end = len(early) // 2, len(early)
    decay = _decay(length, decays_per_sample)
    gain = np.sqrt(np.sum(np.square(early[middle:])) / np.sum(np.square(decay[middle:end])))
    noise = np.random.default_rng(seed).standard_normal(length - end, dtype=np.float32)
    tail: NDArray[np.float32] = noise * decay[end:] * gain
    return tail


def _decay(length: int, decays_per_sample: float) -> NDArray[np.float32]:
    """Amplitudes (length,) that fall by so many times 60 dB a sample."""
    exponents = np.arange(length, dtype=np.float32) * np.float32(-3 * np.log(10) * decays_per_sample)
    decay: NDArray[np.float32] = np.exp(exponents, out=exponents)
    return decay
