"""Long audio in windows that a model can take, cut where nobody speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_SECONDS = 0.02
PAUSE_SECONDS = 0.3  # a cut goes into the middle of the quietest stretch of this length


def windows(clip: AudioClip, max_seconds: float) -> list[tuple[float, AudioClip]]:
    """Pieces of at most `max_seconds` that together are the whole clip.

    Each cut lies at the quietest point in the last third of the time allowed.

    Args:
        clip: any length.
        max_seconds: longest window.

    Returns:
        (start in seconds, piece) in order; the pieces are views of the clip's samples.
    """
    rate = clip.sample_rate_hz
    max_samples = max(1, int(max_seconds * rate))
    found, start = [], 0
    while len(clip.samples) - start > max_samples:
        earliest = start + max_samples * 2 // 3
        end = earliest + _quietest(clip.samples[earliest : start + max_samples], rate)
        found.append((start / rate, AudioClip(clip.samples[start:end], rate)))
        start = end
    found.append((start / rate, AudioClip(clip.samples[start:], rate)))
    return found


def _quietest(samples: NDArray[np.float32], sample_rate_hz: int) -> int:
    """Middle of the stretch with the least energy, in samples from the start; at least 1."""
    frame = max(1, round(FRAME_SECONDS * sample_rate_hz))
    count = len(samples) // frame
    if count == 0:
        return max(1, len(samples))
    energies = (samples[: count * frame].reshape(count, frame).astype(np.float64) ** 2).mean(axis=1)
    stretch = min(count, round(PAUSE_SECONDS / FRAME_SECONDS))
    smooth = np.convolve(energies, np.ones(stretch), mode="valid")  # (count - stretch + 1,)
    # Of equally quiet points, the last: fewer windows.
    last_quietest = len(smooth) - 1 - int(smooth[::-1].argmin())
    return max(1, last_quietest * frame + stretch * frame // 2)
