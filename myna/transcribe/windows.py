"""Long audio in windows that a model can take, cut where nobody speaks, and with an overlap where somebody does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_SECONDS = 0.02
PAUSE_SECONDS = 0.3  # a cut goes into the middle of the quietest stretch of this length
PAUSE_DB = 20.0  # by how much that stretch is quieter than speech when nobody speaks in it
SPEECH_PERCENTILE = 90  # of the frames' energies in a window: what counts as the level of its speech
OVERLAP_SECONDS = 1.5  # that both windows reach over a cut into speech
MAX_OVERLAP = 1 / 6  # of the longest window, so that short windows still move on by half of it


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a recording; seconds count from the start of the recording.

    Cuts are None where the window shares no audio with its neighbour: in a pause and at the ends of the recording.
    """

    start_seconds: float
    clip: AudioClip
    cut_before_seconds: float | None = None
    cut_after_seconds: float | None = None

    @property
    def end_seconds(self) -> float:
        """Where its audio ends, behind the cut where it overlaps with the next."""
        return self.start_seconds + self.clip.duration_seconds

    @property
    def overlaps(self) -> bool:
        """Whether another window hears a part of it too."""
        return self.cut_before_seconds is not None or self.cut_after_seconds is not None


def windows(clip: AudioClip, max_seconds: float) -> list[Window]:
    """Pieces of at most `max_seconds` that together are the whole clip.

    Each cut lies at the quietest point in the last third of the time allowed. It is a pause when the 0.3 s around it
    are 20 dB quieter than the loudest tenth of the window's frames; else both windows reach 1.5 s over it, which is
    taken off the time allowed.

    Args:
        clip: any length.
        max_seconds: longest window, overlaps included.

    Returns:
        Windows in order; their clips are views of the clip's samples.
    """
    samples, rate = clip.samples, clip.sample_rate_hz
    max_samples = max(1, int(max_seconds * rate))
    overlap = min(round(OVERLAP_SECONDS * rate), int(max_samples * MAX_OVERLAP))
    found: list[Window] = []
    start, cut_before = 0, None
    while len(samples) - start > max_samples:
        cut, is_pause = _cut(samples[start : start + max_samples], rate, overlap)
        cut += start
        shared = 0 if is_pause else overlap
        cut_after = cut / rate if shared else None
        found.append(Window(start / rate, AudioClip(samples[start : cut + shared], rate), cut_before, cut_after))
        start, cut_before = cut - shared, cut_after
    found.append(Window(start / rate, AudioClip(samples[start:], rate), cut_before))
    return found


def _cut(samples: NDArray[np.float32], rate: int, overlap: int) -> tuple[int, bool]:
    """Where to cut a window's samples, and whether that is a pause; else `overlap` samples follow the cut."""
    earliest = len(samples) * 2 // 3
    position, energy = _quietest(samples[earliest:], rate)
    if energy == 0 or energy <= _speech_energy(samples, rate) / 10 ** (PAUSE_DB / 10):
        return earliest + position, True
    position, _ = _quietest(samples[earliest : len(samples) - overlap], rate)
    return earliest + position, False


def _quietest(samples: NDArray[np.float32], rate: int) -> tuple[int, float]:
    """Middle of the stretch with the least energy, in samples from the start and at least 1; its mean energy."""
    energies = _frame_energies(samples, rate)
    if len(energies) == 0:
        return max(1, len(samples)), 0.0
    stretch = min(len(energies), round(PAUSE_SECONDS / FRAME_SECONDS))
    smooth = np.convolve(energies, np.ones(stretch), mode="valid")  # (count - stretch + 1,)
    # Of equally quiet points, the last: fewer windows.
    last_quietest = len(smooth) - 1 - int(smooth[::-1].argmin())
    frame = _frame_samples(rate)
    return max(1, last_quietest * frame + stretch * frame // 2), float(smooth[last_quietest]) / stretch


def _speech_energy(samples: NDArray[np.float32], rate: int) -> float:
    return float(np.percentile(_frame_energies(samples, rate), SPEECH_PERCENTILE))


def _frame_energies(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    frame = _frame_samples(rate)
    count = len(samples) // frame
    energies: NDArray[np.float64] = (samples[: count * frame].reshape(count, frame).astype(np.float64) ** 2).mean(
        axis=1
    )
    return energies


def _frame_samples(rate: int) -> int:
    return max(1, round(FRAME_SECONDS * rate))
