"""How much of its 30 s Whisper's encoder hears: all of them, or a clip and a margin of silence after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myna.errors import ModelError
from myna.models.metadata import METADATA_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from myna.config import ModelConfig

WINDOW_SECONDS = 30.0  # what Whisper was trained on, whatever the clip
POSITIONS_PER_SECOND = 50  # of its encoder; each is made of two frames of features
WINDOW_FRAMES = int(2 * POSITIONS_PER_SECOND * WINDOW_SECONDS)  # 3,000
# Of a model's metadata, where it has learned to hear a short context
MARGIN_KEY, LONGEST_KEY = "audio_context_margin_seconds", "audio_context_longest_seconds"


class AudioContext(NamedTuple):
    """A short context; in the place of one, None stands for the full 30 s."""

    margin_seconds: float  # of silence after a clip
    longest_seconds: float = WINDOW_SECONDS  # of a clip; for longer ones nothing short was learned: they get 30 s


def context_seconds(
    durations_seconds: NDArray[np.float64] | float, context: AudioContext | None
) -> NDArray[np.float64]:
    """What the encoder hears of clips: themselves and the margin in whole positions, or 30 s.

    Args:
        durations_seconds: of clips, any shape.
        context: None is 30 s for every clip.
    """
    durations = np.asarray(durations_seconds, dtype=np.float64)
    if context is None:
        return np.full_like(durations, WINDOW_SECONDS)
    positions = np.ceil(POSITIONS_PER_SECOND * (durations + context.margin_seconds) - 1e-6)  # 8.3 + 3 is 11.3, no more
    short = np.minimum(positions / POSITIONS_PER_SECOND, WINDOW_SECONDS)
    return np.where(durations <= context.longest_seconds + 1e-6, short, WINDOW_SECONDS)


def context_frames(duration_seconds: float, context: AudioContext | None) -> int:
    """The same for one clip in frames of features, an even number."""
    return 2 * round(POSITIONS_PER_SECOND * float(context_seconds(duration_seconds, context)))


def context_to_learn(settings: ModelConfig) -> AudioContext | None:
    """What a model is trained on."""
    return AudioContext(settings.audio_context_margin_seconds) if settings.audio_context == "auto" else None


def learned_context(folder: Path, metadata: dict[str, str]) -> AudioContext | None:
    """What a saved model has learned to hear.

    Args:
        folder: of the model, for the error.
        metadata: of the model.

    Raises:
        ModelError: they are no numbers of seconds.
    """
    if MARGIN_KEY not in metadata:
        return None
    received = [metadata[MARGIN_KEY], metadata.get(LONGEST_KEY, f"{WINDOW_SECONDS}")]
    try:
        context = AudioContext(*(float(text) for text in received))
    except ValueError:
        context = AudioContext(-1.0)
    if not all(0 < seconds <= WINDOW_SECONDS for seconds in context):
        raise ModelError(
            f"{folder / METADATA_FILE}: expected {MARGIN_KEY} and {LONGEST_KEY} over 0 and up to {WINDOW_SECONDS:.0f}; "
            f"received {' and '.join(received)}",
            "Take the keys out, and the model hears 30 s again.",
        )
    return context
