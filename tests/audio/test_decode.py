from __future__ import annotations

import contextlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from recordings import KINDS, OPUS_RATES_HZ, chirp, encoded, lag_samples

from myna.audio.decode import decode, probe
from myna.errors import AudioError
from myna.samples import RefusalReason

RATES_HZ = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000)


def refusal(source, **segment) -> RefusalReason:
    with pytest.raises(AudioError) as caught:
        decode(source, **segment)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_starts_where_the_original_does(kind, rate_hz):
    if kind in ("opus", "webm") and rate_hz not in OPUS_RATES_HZ:
        rate_hz = 48_000  # opus knows no other rates
    original = chirp(2.0, rate_hz)
    reference = soxr.resample(original, rate_hz, 16_000)
    clip = decode(encoded(kind, original, rate_hz))
    assert clip.sample_rate_hz == 16_000
    assert clip.samples.dtype == np.float32
    assert abs(lag_samples(reference, clip.samples)) <= 2
    assert 0 <= len(clip.samples) - len(reference) <= 0.08 * 16_000  # at most the last frame's padding
    common = clip.samples[: len(reference)]
    assert np.corrcoef(reference, common)[0, 1] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_agrees_with_the_decoder(kind):
    info = probe(encoded(kind, chirp(2.0, 16_000), 16_000))
    assert info.format == {"opus": "ogg"}.get(kind, kind)
    assert info.channels == 1
    assert info.sample_rate_hz == (48_000 if kind == "webm" else 16_000)
    assert info.duration_seconds == pytest.approx(2.0, abs=0.07)


@pytest.mark.parametrize("kind", KINDS)
def test_files_larger_than_any_buffer(kind, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * 16_000).astype(np.float32)
    path = tmp_path / "long"
    path.write_bytes(encoded(kind, np.concatenate([noise, chirp(1.0)]), 16_000))
    assert path.stat().st_size > 65_536
    clip = decode(path)
    assert clip.duration_seconds == pytest.approx(21.0, abs=0.08)
    assert lag_samples(np.concatenate([np.zeros(20 * 16_000, np.float32), chirp(1.0)]), clip.samples) == 0
    assert np.array_equal(decode(path.read_bytes()).samples, clip.samples)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_averaged(kind):
    left, right = chirp(1.0), chirp(1.0)[::-1]
    clip = decode(encoded(kind, np.stack([left, right], axis=1), 16_000))
    reference = (left + right) / 2
    assert np.corrcoef(reference, clip.samples[: len(reference)])[0, 1] > 0.9
    assert np.std(clip.samples) == pytest.approx(np.std(reference), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_is_what_the_whole_recording_holds_there(kind):
    data = encoded(kind, chirp(3.0), 16_000)
    rate_hz = probe(data).sample_rate_hz
    whole = decode(data, sample_rate_hz=rate_hz).samples
    segment = decode(data, offset_seconds=1.25, duration_seconds=0.5, sample_rate_hz=rate_hz).samples
    start = round(1.25 * rate_hz)
    assert len(segment) == rate_hz // 2
    assert np.abs(segment - whole[start : start + len(segment)]).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_path_and_name_make_no_difference(kind, tmp_path):
    data = encoded(kind, chirp(1.0), 16_000)
    misnamed = tmp_path / "tiếng Việt .raw"
    misnamed.write_bytes(data)
    first = decode(data).samples
    assert np.array_equal(decode(misnamed).samples, first)
    assert np.array_equal(decode(str(misnamed)).samples, first)


def test_pcm_values_are_exact():
    samples = np.array([0.0, 0.5, -0.25, -1.0], dtype=np.float32)
    assert decode(encoded("wav", samples, 16_000)).samples.tolist() == samples.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_cut_off_file_is_truncated(kind, kept):
    data = encoded(kind, chirp(4.0), 16_000)
    assert refusal(data[: int(kept * len(data))]) == RefusalReason.TRUNCATED


def test_a_manifest_may_not_claim_more_than_there_is():
    data = encoded("wav", chirp(1.0), 16_000)
    assert len(decode(data, duration_seconds=1.05).samples) == 16_000
    assert refusal(data, duration_seconds=1.5) == RefusalReason.TRUNCATED
    assert refusal(data, offset_seconds=2.0, duration_seconds=1.0) == RefusalReason.TRUNCATED
    assert refusal(data, offset_seconds=2.0) == RefusalReason.EMPTY_AUDIO


def test_wav_from_a_pipe_whose_length_was_unknown():
    data = bytearray(encoded("wav", chirp(1.0), 16_000))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(data)).samples) == 16_000


def test_variable_bit_rate_mp3_without_a_xing_header_is_read_to_its_end():
    loud, silent = chirp(1.0, 44_100), np.zeros(44_100 * 4, np.float32)
    data = encoded("mp3", np.concatenate([loud, silent, loud]), 44_100, write_xing="0", id3v2_version="0")
    assert decode(data).duration_seconds == pytest.approx(6.0, abs=0.1)


def test_what_holds_no_samples_is_empty(tmp_path):
    assert refusal(b"") == RefusalReason.EMPTY_AUDIO
    for kind in ("wav", "flac"):
        assert refusal(encoded(kind, np.zeros(0, np.float32), 16_000)) == RefusalReason.EMPTY_AUDIO


def test_samples_that_are_not_finite(tmp_path):
    samples = chirp(1.0)
    for bad in (np.nan, np.inf):
        samples[8_000] = bad
        path = tmp_path / "bad.wav"
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        assert refusal(path) == RefusalReason.NOT_FINITE
        assert len(decode(path, duration_seconds=0.4).samples) == 6_400


def test_what_cannot_be_opened(tmp_path):
    assert refusal(tmp_path / "none.wav") == RefusalReason.MISSING_FILE
    assert refusal(tmp_path / "a\0b.wav") == RefusalReason.UNREADABLE
    (tmp_path / "folder.wav").mkdir()
    assert refusal(tmp_path / "folder.wav") == RefusalReason.UNREADABLE
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    assert refusal(tmp_path / "loop.wav") == RefusalReason.UNREADABLE
    os.mkfifo(tmp_path / "pipe.wav")
    assert refusal(tmp_path / "pipe.wav") == RefusalReason.UNREADABLE


def test_no_permission(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded("wav", chirp(1.0), 16_000))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything, so be nobody for a moment
        os.seteuid(65_534)
    try:
        assert refusal(path) == RefusalReason.UNREADABLE
    finally:
        os.seteuid(user)


def test_refusals_leave_no_file_open(tmp_path):
    good, text = tmp_path / "good.wav", tmp_path / "text.wav"
    good.write_bytes(encoded("wav", chirp(1.0), 16_000))
    text.write_text("no sound")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (good, text, tmp_path, tmp_path / "none.wav"):
        with contextlib.suppress(AudioError):
            decode(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "data",
    [
        b"This is no sound, it only bears the name.\n" * 50,
        b"\x00" * 5_000,
        b"\xff" * 5_000,
        np.random.default_rng(0).bytes(20_000),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile other.wav\n",
    ],
    ids=["text", "zeros", "ones", "random", "playlist", "concat"],
)
def test_garbage_is_unreadable(data):
    assert refusal(data) == RefusalReason.UNREADABLE


def test_odd_rates_and_channel_counts():
    samples = chirp(1.0)
    assert len(decode(encoded("wav", np.stack([samples] * 7, axis=1), 16_000)).samples) == 16_000
    assert len(decode(encoded("wav", samples, 192_000)).samples) == round(16_000 / 12)
    assert refusal(encoded("wav", np.zeros((100, 65), np.float32), 16_000)) == RefusalReason.UNREADABLE
    assert refusal(encoded("wav", samples, 2_000)) == RefusalReason.UNREADABLE
    assert refusal(encoded("wav", samples, 1_000_000)) == RefusalReason.UNREADABLE


def test_too_long_is_judged_on_the_segment():
    data = encoded("mp3", chirp(3.0), 16_000)
    assert refusal(data, max_seconds=2.0) == RefusalReason.TOO_LONG
    assert refusal(data, duration_seconds=2.5, max_seconds=2.0) == RefusalReason.TOO_LONG
    assert decode(data, max_seconds=3.0).duration_seconds == 3.0
    assert decode(data, offset_seconds=1.5, max_seconds=2.0).duration_seconds == 1.5
    assert decode(data, duration_seconds=1.0, max_seconds=1.0).duration_seconds == 1.0


@pytest.mark.parametrize("kind", ["flac", "aac"])
def test_a_bomb_is_left_at_the_cap_in_little_memory(kind):
    bomb = encoded(kind, np.zeros(8_000 * 1_200, np.int16 if kind == "flac" else np.float32), 8_000)
    assert len(bomb) < 200_000
    tracemalloc.start()
    assert refusal(bomb, max_seconds=30.0) == RefusalReason.TOO_LONG
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000_000  # all of it would be 77 MB


def test_the_same_samples_every_time():
    data = encoded("mp3", chirp(2.0, 44_100), 44_100)
    assert np.array_equal(decode(data).samples, decode(data).samples)


def test_impossible_segments_are_a_programming_mistake():
    data = encoded("wav", chirp(1.0), 16_000)
    for segment in ({"offset_seconds": -1.0}, {"duration_seconds": 0.0}, {"max_seconds": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            decode(data, **segment)


@pytest.mark.parametrize("kind", KINDS)
def test_only_audio_errors_escape_from_damaged_files(kind, capfd):
    whole = np.frombuffer(encoded(kind, chirp(1.0), 16_000), np.uint8)
    rng = np.random.default_rng(KINDS.index(kind))
    outcomes = set()
    for trial in range(60):
        damaged = whole.copy()
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            reach = min(300, len(whole)) if trial % 3 == 1 else len(whole)  # headers, or anywhere
            damaged[rng.integers(reach, size=1 + trial % 7)] ^= rng.integers(1, 256, dtype=np.uint8)
        for read in (probe, decode):
            try:
                read(damaged.tobytes())
                outcomes.add("read")
            except AudioError as error:
                outcomes.add(str(error.reason))
    assert outcomes >= {"truncated"}
    assert capfd.readouterr() == ("", "")
