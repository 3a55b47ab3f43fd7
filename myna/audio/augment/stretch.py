"""Another tempo at the same pitch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from myna.audio.augment.length import fitted
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEGMENT_SECONDS = 0.040  # of output, between two joints
OVERLAP_SECONDS = 0.010  # over which one segment fades into the next
# How far a joint may lie from its even place, either way. Both ways together hold a period of the lowest voices.
REACH_SECONDS = 0.0075  # 67 Hz
SILENT_ENERGY = 1e-10  # of the samples over which segments fade; below it, where they join does not matter


class Stretch(AudioTransform):
    """Speaks `factor` times as fast; the clip gets 1 / factor as long."""

    type: Literal["stretch"] = "stretch"
    min_factor: float = Field(default=0.9, ge=0.5, le=2)
    max_factor: float = Field(default=1.1, ge=0.5, le=2)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"factor": float(rng.uniform(self.min_factor, self.max_factor))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        factor = parameters["factor"]
        length = round(len(clip.samples) / factor)
        return AudioClip(stretched(clip.samples, factor, clip.sample_rate_hz, length), clip.sample_rate_hz)

    def longest_seconds(self, seconds: float) -> float:
        return seconds / self.min_factor


def stretched(samples: NDArray[np.float32], factor: float, sample_rate_hz: int, length: int) -> NDArray[np.float32]:
    """Synchronised overlap-add (Roucos and Wilgus 1985): segments taken evenly, joined where their waves agree.

    Because segments are taken at places known beforehand, all of their correlations come from one batch of FFTs.

    Args:
        samples: (N,).
        factor: times as fast.
        sample_rate_hz: of the samples.
        length: of the result, about N / factor.
    """
    segment, overlap, reach = (
        round(seconds * sample_rate_hz) for seconds in (SEGMENT_SECONDS, OVERLAP_SECONDS, REACH_SECONDS)
    )
    num_segments = max(1, -(-length // segment))
    starts = np.rint(np.arange(num_segments) * (segment * factor)).astype(np.int64)  # in the samples
    padded = fitted(samples, max(len(samples), int(starts[-1])) + 2 * (segment + 2 * reach + overlap))
    joints = _joints(padded, starts, segment, overlap, reach)  # in the result; the first is 0
    return _joined(padded, starts, joints, overlap, length)


def _joints(
    samples: NDArray[np.float32], starts: NDArray[np.int64], segment: int, overlap: int, reach: int
) -> NDArray[np.int64]:
    """Where in the result each segment (K,) starts: near its even place, where it fits what lies there best."""
    earliest = segment - 2 * reach  # the shortest way from a joint to the next
    size = 4 * reach + overlap
    fft_size = scipy.fft.next_fast_len(size, real=True)
    before = sliding_window_view(samples, size)[starts[:-1] + earliest]  # (K - 1, size): how the last segment goes on
    here = sliding_window_view(samples, overlap)[starts[1:]]  # (K - 1, overlap)
    products = scipy.fft.rfft(here, fft_size)
    np.conjugate(products, out=products)
    products *= scipy.fft.rfft(before, fft_size)
    likeness = scipy.fft.irfft(products, fft_size)[:, : 4 * reach + 1]  # (K - 1, lags)
    likeness *= sliding_window_view(_reciprocal_norms(samples, overlap), 4 * reach + 1)[starts[:-1] + earliest]
    joints = [0]
    for number, row in enumerate(likeness, start=1):
        first = number * segment - reach - joints[-1] - earliest  # the lag of the earliest place allowed
        joints.append(joints[-1] + earliest + first + int(row[first : first + 2 * reach + 1].argmax()))
    return np.array(joints)


def _reciprocal_norms(samples: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """1 / norm of each window of `width` samples."""
    energies = window_sums(np.square(samples), width)
    np.maximum(energies, SILENT_ENERGY, out=energies)
    np.sqrt(energies, out=energies)
    return np.reciprocal(energies, out=energies)


def window_sums(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Sums over each window of `width` values, from those of windows of 1, 2, 4, ...; nothing is ever subtracted.

    A running sum would lose what is quiet after what is loud.
    """
    num_windows = len(values) - width + 1
    total = np.zeros(num_windows, np.float32)
    sums, size, covered = values, 1, 0  # sums of windows of `size` values
    while covered < width:
        if width & size:
            total += sums[covered : covered + num_windows]
            covered += size
        sums = sums[:-size] + sums[size:]
        size *= 2
    return total


def _joined(
    samples: NDArray[np.float32], starts: NDArray[np.int64], joints: NDArray[np.int64], overlap: int, length: int
) -> NDArray[np.float32]:
    """The segments in their places, each faded in over the one before."""
    windows = sliding_window_view(samples, overlap)
    weights = (0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)).astype(np.float32)
    going = windows[starts[:-1] + np.diff(joints)]  # (K - 1, overlap)
    fades = going + weights * (windows[starts[1:]] - going)
    ends = [*joints[1:].tolist(), max(length, int(joints[-1]) + overlap)]
    result = np.empty(ends[-1], np.float32)
    result[: ends[0]] = samples[: ends[0]]
    for start, joint, end, fade in zip(starts[1:].tolist(), joints[1:].tolist(), ends[1:], fades, strict=True):
        result[joint : joint + overlap] = fade
        result[joint + overlap : end] = samples[start + overlap : start + end - joint]
    return result[:length]
