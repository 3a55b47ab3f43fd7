"""How much of its 30 s Whisper's encoder hears: all of them, or a clip and a margin of silence after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from myna.errors import ModelError
from myna.models.metadata import METADATA_FILE

if TYPE_CHECKING:
    from myna.config import ModelConfig

WINDOW_SECONDS = 30.0  # what Whisper was trained on, whatever the clip
POSITIONS_PER_SECOND = 50  # of its encoder; each is made of two frames of features
WINDOW_FRAMES = int(2 * POSITIONS_PER_SECOND * WINDOW_SECONDS)  # 3,000
MARGIN_KEY = "audio_context_margin_seconds"  # of a model's metadata, where it has learned to hear a short context


def context_seconds(
    durations_seconds: NDArray[np.float64] | float, margin_seconds: float | None
) -> NDArray[np.float64]:
    """What the encoder hears of clips: themselves and the margin, in whole positions, at most 30 s.

    Args:
        durations_seconds: of clips, any shape.
        margin_seconds: of silence after each; None is 30 s for every clip.
    """
    durations = np.asarray(durations_seconds, dtype=np.float64)
    if margin_seconds is None:
        return np.full_like(durations, WINDOW_SECONDS)
    positions = np.ceil(POSITIONS_PER_SECOND * (durations + margin_seconds) - 1e-6)  # 8.3 + 3 is 11.3 and no more
    return np.minimum(positions / POSITIONS_PER_SECOND, WINDOW_SECONDS)


def context_frames(duration_seconds: float, margin_seconds: float | None) -> int:
    """The same for one clip in frames of features, an even number."""
    return 2 * round(POSITIONS_PER_SECOND * float(context_seconds(duration_seconds, margin_seconds)))


def margin_to_learn(settings: ModelConfig) -> float | None:
    """The margin of the short context that a model is to learn; None where it is trained on 30 s."""
    return settings.audio_context_margin_seconds if settings.audio_context == "auto" else None


def learned_margin_seconds(folder: Path, metadata: dict[str, str]) -> float | None:
    """The margin of the short context that a saved model has learned to hear; None where it has learned none.

    Args:
        folder: of the model, for the error.
        metadata: of the model.

    Raises:
        ModelError: it is no number of seconds.
    """
    text = metadata.get(MARGIN_KEY)
    if text is None:
        return None
    try:
        margin_seconds = float(text)
    except ValueError:
        margin_seconds = -1.0
    if not 0 < margin_seconds <= WINDOW_SECONDS:
        raise ModelError(
            f"{folder / METADATA_FILE}: expected {MARGIN_KEY} over 0 and up to {WINDOW_SECONDS:.0f}; received {text}",
            "Take the key out, and the model hears 30 s again.",
        )
    return margin_seconds
