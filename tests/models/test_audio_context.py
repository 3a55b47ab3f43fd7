from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from myna.errors import ModelError
from myna.models.audio_context import (
    LONGEST_KEY,
    MARGIN_KEY,
    AudioContext,
    context_frames,
    context_seconds,
    learned_context,
)


def test_a_clip_is_heard_with_its_margin_in_whole_positions() -> None:
    seconds = [0.5, 5.0, 5.001, 8.3, 26.99, 27.5, 30.0]
    assert context_seconds(np.array(seconds), AudioContext(3.0)).tolist() == [3.5, 8.0, 8.02, 11.3, 30.0, 30.0, 30.0]
    assert [context_frames(each, AudioContext(3.0)) for each in seconds] == [350, 800, 802, 1130, 3000, 3000, 3000]
    assert context_seconds(np.array(seconds), None).tolist() == [30.0] * 7
    assert context_frames(1.0, None) == 3000


def test_clips_longer_than_those_it_learned_with_are_heard_in_full() -> None:
    seconds = np.array([9.8, 9.9, 20.0])
    assert context_seconds(seconds, AudioContext(3.0, longest_seconds=9.8)).tolist() == [12.8, 30.0, 30.0]


def test_what_a_model_learned_is_read_from_its_metadata(tmp_path: Path) -> None:
    assert learned_context(tmp_path, {}) is None
    assert learned_context(tmp_path, {MARGIN_KEY: "2.5"}) == AudioContext(2.5)
    assert learned_context(tmp_path, {MARGIN_KEY: "2.5", LONGEST_KEY: "9.8"}) == AudioContext(2.5, 9.8)
    for text in ("nan", "0", "31", "much"):
        with pytest.raises(ModelError, match=f"over 0 .* received {text} and 9"):
            learned_context(tmp_path, {MARGIN_KEY: text, LONGEST_KEY: "9"})
        with pytest.raises(ModelError, match=f"over 0 .* received 3 and {text}"):
            learned_context(tmp_path, {MARGIN_KEY: "3", LONGEST_KEY: text})
