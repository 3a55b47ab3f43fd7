from __future__ import annotations

import numpy as np
import pytest
from pitches import cents_off, tone

from myna.audio.augment.pitch import Pitch
from myna.samples import AudioClip


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
@pytest.mark.parametrize("semitones", [-12.0, -4.0, -1.0, -0.3, 0.0, 0.5, 2.0, 7.0, 12.0])
@pytest.mark.parametrize("hz", [130.0, 440.0, 1_000.0])
def test_a_tone_moves_by_what_was_asked_for(rate_hz, semitones, hz):
    shifted = Pitch().apply(tone(hz, rate_hz), {"semitones": semitones}).samples
    assert abs(cents_off(shifted, rate_hz, hz * 2 ** (semitones / 12))) < 5
    assert len(shifted) == 2 * rate_hz


@pytest.mark.parametrize("semitones", [-5.0, 5.0])
def test_sounds_stay_where_they_are(semitones):
    samples = np.zeros(32_000, np.float32)
    samples[20_000:20_400] = 1.0
    loud = np.flatnonzero(Pitch().apply(AudioClip(samples, 16_000), {"semitones": semitones}).samples > 0.5)
    assert abs((loud[0] + loud[-1]) / 2 - 20_200) < 0.02 * 16_000


def test_draws_stay_in_the_range():
    draws = [Pitch(min_semitones=-3, max_semitones=1).draw(np.random.default_rng(n))["semitones"] for n in range(200)]
    assert -3 <= min(draws) < -2.9
    assert 0.9 < max(draws) <= 1
