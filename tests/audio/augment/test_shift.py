from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.shift import Shift
from myna.samples import AudioClip

CLIP = AudioClip(np.arange(1, 11, dtype=np.float32), 10)  # a second


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.3, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (-0.2, [3, 4, 5, 6, 7, 8, 9, 10, 0, 0]),
        (7.0, [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),  # half of it stays
        (-7.0, [6, 7, 8, 9, 10, 0, 0, 0, 0, 0]),
    ],
)
def test_samples_move_and_silence_fills(seconds, expected):
    assert Shift().apply(CLIP, {"shift_seconds": seconds}).samples.tolist() == expected


def test_draws_stay_in_the_range():
    draws = [Shift().draw(np.random.default_rng(n))["shift_seconds"] for n in range(200)]
    assert -0.1 <= min(draws) < -0.09
    assert 0.09 < max(draws) <= 0.1
