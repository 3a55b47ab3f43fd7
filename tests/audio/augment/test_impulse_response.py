from __future__ import annotations

import numpy as np
import pytest
import soundfile

from myna.audio.augment.impulse_response import ImpulseResponse, read_response
from myna.audio.augment.level import power
from myna.errors import AudioError
from myna.samples import AudioClip


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_the_direct_sound_stays_and_the_echo_comes_after(room_folder, rate_hz):
    samples = np.zeros(rate_hz, np.float32)
    samples[1_000] = 1.0
    heard = ImpulseResponse(folder=str(room_folder)).apply(AudioClip(samples, rate_hz), {"file": "hall.wav"}).samples
    assert int(heard.argmax()) == 1_000
    echo = 1_000 + rate_hz // 10
    assert heard[echo] / heard[1_000] == pytest.approx(0.5, abs=0.01)
    assert power(heard) == pytest.approx(power(samples), rel=1e-4)


def test_the_first_channel_is_taken(tmp_path):
    channels = np.zeros((1_000, 2), np.float32)
    channels[100, 0] = channels[300, 1] = 1.0
    soundfile.write(tmp_path / "two.wav", channels, 16_000, subtype="FLOAT")
    response = read_response(tmp_path / "two.wav", 16_000)
    assert np.flatnonzero(response > 0.5).tolist() == [40]


def test_an_early_peak_is_the_direct_sound_though_an_echo_is_higher(tmp_path):
    response = np.zeros(1_000, np.float32)
    response[100], response[400] = 0.6, 1.0
    soundfile.write(tmp_path / "focus.wav", response, 16_000, subtype="FLOAT")
    assert np.flatnonzero(read_response(tmp_path / "focus.wav", 16_000) > 0.5).tolist() == [40, 340]


def test_what_is_no_response_is_refused(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    for name, reason in (("silent", "silent"), ("nan", "not_finite"), ("text", "unreadable")):
        with pytest.raises(AudioError) as caught:
            read_response(tmp_path / f"{name}.wav", 16_000)
        assert caught.value.reason == reason


def test_real_responses_keep_speech_in_place(shared):
    rooms = ImpulseResponse(folder=str(shared / "corpora" / "noise_and_rooms" / "rir"))
    assert rooms.check() == []
    click = np.zeros(32_000, np.float32)
    click[5_000] = 1.0
    names = {rooms.draw(np.random.default_rng(seed))["file"] for seed in range(60)}
    assert len(names) == 7
    for name in names:
        heard = np.abs(rooms.apply(AudioClip(click, 16_000), {"file": name}).samples)
        assert heard[4_998:5_003].max() >= 0.5 * heard.max()
        assert heard[:4_900].max() < 0.3 * heard.max()
