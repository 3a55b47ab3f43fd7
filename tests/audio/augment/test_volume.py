from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.volume import Volume
from myna.samples import AudioClip


@pytest.mark.parametrize(("gain_db", "gain"), [(0.0, 1.0), (20.0, 10.0), (-6.0206, 0.5)])
def test_gain(gain_db, gain):
    clip = AudioClip(np.array([0.25, -0.5], np.float32), 16_000)
    louder = Volume().apply(clip, {"gain_db": gain_db}).samples
    assert louder == pytest.approx([0.25 * gain, -0.5 * gain], rel=1e-5)  # 10 times 0.5 is not clipped


def test_draws_stay_in_the_range():
    gains = [Volume().draw(np.random.default_rng(n))["gain_db"] for n in range(200)]
    assert -12 <= min(gains) < -11
    assert 5 < max(gains) <= 6
