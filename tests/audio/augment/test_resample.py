from __future__ import annotations

import numpy as np
import pytest
from pitches import tone

from myna.audio.augment.resample import Resample


@pytest.mark.parametrize("low_rate_hz", [4_000, 6_733, 12_000])
def test_what_is_above_half_the_low_rate_is_gone(low_rate_hz):
    inner = slice(1_600, -1_600)
    kept = Resample().apply(tone(0.4 * low_rate_hz, 16_000), {"rate_hz": low_rate_hz}).samples
    assert kept[inner] == pytest.approx(tone(0.4 * low_rate_hz, 16_000).samples[inner], abs=0.01)  # in its place, too
    gone = Resample().apply(tone(0.6 * low_rate_hz, 16_000), {"rate_hz": low_rate_hz}).samples
    assert 20 * np.log10(np.abs(gone[inner]).max()) < -80


def test_a_clip_of_a_low_rate_stays_as_it_is():
    clip = tone(440, 8_000)
    same = Resample().apply(clip, {"rate_hz": 8_000})
    assert np.array_equal(same.samples, clip.samples)
    assert same.samples is not clip.samples


def test_draws_reach_both_ends():
    draws = {
        Resample(min_rate_hz=4_000, max_rate_hz=4_002).draw(np.random.default_rng(n))["rate_hz"] for n in range(50)
    }
    assert draws == {4_000, 4_001, 4_002}
