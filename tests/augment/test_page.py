from __future__ import annotations

import pytest

from myna.augment.page import _even_seconds


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 3.7, 9.99, 30, 60])
def test_ticks_are_round_and_few(seconds):
    ticks = _even_seconds(seconds)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 8
    assert seconds - ticks[-1] < ticks[1]
