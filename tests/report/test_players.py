"""Recordings in the page: they decode to what they were, and stay within their bytes."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import soundfile

from myna.audio.decode import decode
from myna.report import players
from myna.report.players import Players


@pytest.fixture
def recording(tmp_path):
    times = np.arange(3 * 16_000) / 16_000
    soundfile.write(tmp_path / "a.flac", np.sin(2 * np.pi * 440 * times) * 0.5, 16_000)
    return str(tmp_path / "a.flac")


def test_a_segment_is_heard_as_it_was(recording):
    made = Players().player(recording, 1.0, 1.5)
    kind, data = made.source.split(",")
    assert kind == "data:audio/mpeg;base64"
    clip = decode(base64.b64decode(data))
    assert clip.duration_seconds == pytest.approx(1.5, abs=0.15)  # MP3 pads to whole frames
    spectrum = np.abs(np.fft.rfft(clip.samples))
    assert np.argmax(spectrum) * 16_000 / len(clip.samples) == pytest.approx(440, abs=2)
    assert made.note == ""


def test_the_limit_of_bytes_holds_and_is_told(recording):
    size = len(Players().player(recording, 0.0, 1.0).source)
    limited = Players(max_bytes=2 * size + 10)
    made = [limited.player(recording, 0.0, 1.0) for _ in range(4)]
    assert [bool(one.source) for one in made] == [True, True, False, False]
    assert "used up" in made[-1].note
    assert (limited.count, limited.used_bytes) == (2, 2 * size)


def test_long_recordings_are_cut_and_say_so(recording, monkeypatch):
    monkeypatch.setattr(players, "MAX_CLIP_SECONDS", 1.0)
    made = Players().player(recording, 0.0, 3.0)
    assert made.note == "the first 1 of 3.0 s"
    assert decode(base64.b64decode(made.source.split(",")[1])).duration_seconds == pytest.approx(1.0, abs=0.15)


def test_what_cannot_be_read_says_why(recording, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no audio at all")
    made = Players()
    assert "missing_file" in made.player(str(tmp_path / "none.wav"), 0.0, 1.0).note
    assert "unreadable" in made.player(str(tmp_path / "broken.wav"), 0.0, 1.0).note
    assert "no player" in made.player(recording, 0.0, float("nan")).note
    assert made.count == 0
