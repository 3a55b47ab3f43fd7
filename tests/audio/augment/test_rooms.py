from __future__ import annotations

import sys

import numpy as np
import pytest

from myna.audio.augment.chain import Chain
from myna.audio.augment.far_field import FarField
from myna.audio.augment.level import power
from myna.errors import MissingExtraError
from myna.samples import AudioClip


def click(rate_hz: int, at: int, seconds: float = 3.0) -> AudioClip:
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    samples[at] = 0.5
    return AudioClip(samples, rate_hz)


def reverberation_seconds(response: np.ndarray, rate_hz: int, down_to_db: float) -> float:
    """Schroeder's backward integration, and a line through the decay from -5 dB on."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    level_db = 10 * np.log10(energy / energy[0] + 1e-12)
    fitted = np.flatnonzero((level_db <= -5) & (level_db >= down_to_db))
    slope = np.polyfit(fitted / rate_hz, level_db[fitted], 1)[0]
    return -60 / slope


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
@pytest.mark.parametrize("rt60", [0.15, 0.2, 0.3, 0.5, 0.8, 1.2])
def test_reverberation_takes_as_long_as_asked_for(rate_hz, rt60):
    far_field = FarField(min_rt60_seconds=rt60, max_rt60_seconds=rt60)
    for seed in range(6):
        heard = far_field.apply(click(rate_hz, 0), far_field.draw(np.random.default_rng(seed))).samples
        assert reverberation_seconds(heard, rate_hz, -35) == pytest.approx(rt60, rel=0.1)  # T30
        assert reverberation_seconds(heard, rate_hz, -25) == pytest.approx(rt60, rel=0.15)  # T20


def test_the_direct_sound_stays_in_place_and_the_level_is_kept():
    far_field = FarField(max_distance_meters=1.0)
    for seed in range(8):
        clip = click(16_000, 1_000)
        heard = far_field.apply(clip, far_field.draw(np.random.default_rng(seed))).samples
        assert int(np.abs(heard).argmax()) == 1_000
        assert np.abs(heard[:980]).max() < 1e-3 * heard.max()
        assert power(heard) == pytest.approx(power(clip.samples), rel=1e-4)


def test_the_farther_the_less_direct_sound():
    def direct_share(meters: float) -> float:
        room = FarField(
            min_distance_meters=meters, max_distance_meters=meters, min_rt60_seconds=0.4, max_rt60_seconds=0.4
        )
        shares = []
        for seed in range(10):
            heard = room.apply(click(16_000, 500), room.draw(np.random.default_rng(seed))).samples
            shares.append(power(heard[480:521]) * 41 / (power(heard) * len(heard)))
        return float(np.mean(shares))

    near, middle, far = (direct_share(meters) for meters in (0.5, 1.5, 4.0))
    assert near > 2 * middle > 4 * far


def test_everything_is_inside_the_room_at_the_drawn_distance():
    far_field = FarField(min_distance_meters=9, max_distance_meters=10)
    for seed in range(50):
        drawn = far_field.draw(np.random.default_rng(seed))
        for place in (drawn["source_meters"], drawn["microphone_meters"]):
            assert all(0.399 < at < side - 0.399 for at, side in zip(place, drawn["room_meters"], strict=True))
        meters = np.linalg.norm(np.subtract(drawn["source_meters"], drawn["microphone_meters"]))
        assert 9 <= meters <= 10


def test_the_walls_make_no_rumble():
    far_field = FarField()
    heard = far_field.apply(click(16_000, 0), far_field.draw(np.random.default_rng(0))).samples
    spectrum = np.abs(np.fft.rfft(heard)) ** 2  # lines 1/3 Hz apart
    assert spectrum[:60].mean() < 3 * spectrum[300:3_000].mean()


def test_a_missing_package_is_named_when_the_run_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)  # as if it were not there
    with pytest.raises(MissingExtraError, match=r"pyroomacoustics.*myna\[augment\]"):
        Chain([FarField()]).check()
    assert Chain([FarField(probability=0)]).check() == []
