from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from myna.errors import ModelError
from myna.models.audio_context import context_frames, context_seconds, learned_margin_seconds


def test_a_clip_is_heard_with_its_margin_in_whole_positions() -> None:
    seconds = [0.5, 5.0, 5.001, 8.3, 26.99, 27.5, 30.0]
    assert context_seconds(np.array(seconds), 3.0).tolist() == [3.5, 8.0, 8.02, 11.3, 30.0, 30.0, 30.0]
    assert [context_frames(each, 3.0) for each in seconds] == [350, 800, 802, 1130, 3000, 3000, 3000]
    assert context_seconds(np.array(seconds), None).tolist() == [30.0] * 7
    assert context_frames(1.0, None) == 3000


def test_what_a_model_learned_is_read_from_its_metadata(tmp_path: Path) -> None:
    assert learned_margin_seconds(tmp_path, {}) is None
    assert learned_margin_seconds(tmp_path, {"audio_context_margin_seconds": "2.5"}) == 2.5
    for text in ("nan", "0", "31", "much"):
        with pytest.raises(ModelError, match=f"expected audio_context_margin_seconds over 0 .* received {text}"):
            learned_margin_seconds(tmp_path, {"audio_context_margin_seconds": text})
