from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from myna.audio.augment import recordings
from myna.audio.augment.background import read_noise
from myna.audio.augment.recordings import recordings_in
from myna.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _listed_anew():
    recordings_in.cache_clear()


def write(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16_000)), 16_000)


def found(folder: Path) -> recordings.Recordings:
    recordings_in.cache_clear()
    return recordings_in(str(folder), read_noise)


def test_audio_files_are_listed_by_name(tmp_path):
    for name in ("b.wav", "a/z.flac", "a.wav", ".hidden.wav", ".git/c.wav"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("not audio")
    assert found(tmp_path).names == ("a.wav", "a/z.flac", "b.wav")


def test_the_digest_is_that_of_names_and_sizes(tmp_path):
    write(tmp_path / "one" / "a.wav")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    digests = [found(tmp_path / "one").digest]
    assert found(tmp_path / "two").digest == digests[0]
    for change in (
        lambda: write(tmp_path / "two" / "b.wav"),
        lambda: write(tmp_path / "two" / "b.wav", 0.6),
        lambda: (tmp_path / "two" / "b.wav").rename(tmp_path / "two" / "c.wav"),
    ):
        change()
        digests.append(found(tmp_path / "two").digest)
    assert len(set(digests)) == 4


def test_a_broken_file_is_named_and_left_out(tmp_path):
    write(tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF and then nothing")
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    folder = found(tmp_path)
    notes = folder.check()
    assert len(notes) == 2
    assert notes[0].startswith("broken.wav") and notes[1].startswith("cut.wav")
    with pytest.warns(UserWarning, match="left out") as caught:
        drawn = [folder.pick(np.random.default_rng(seed)) for seed in range(20)]
    assert set(drawn) == {"good.wav"}
    assert sorted(str(warning.message).split(" is left out")[0] for warning in caught) == [
        str(tmp_path / "broken.wav"),
        str(tmp_path / "cut.wav"),
    ]  # once each


def test_useless_folders_are_mistakes_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="nowhere, which is none"):
        found(tmp_path / "nowhere").check()
    with pytest.raises(ConfigError, match=r"expected recordings \(aac, .*wma\)"):
        found(tmp_path).check()
    (tmp_path / "broken.wav").write_text("no sound")
    with pytest.raises(ConfigError, match="1 that cannot be read"):
        found(tmp_path).check()
    with pytest.warns(UserWarning), pytest.raises(DataError, match="none that can be read"):
        found(tmp_path).pick(np.random.default_rng(0))


def test_a_folder_that_changes_while_a_run_goes_on_is_noticed(tmp_path):
    for name in ("longer.wav", "gone.wav"):
        write(tmp_path / name)
    folder = found(tmp_path)
    write(tmp_path / "longer.wav", 0.7)
    (tmp_path / "gone.wav").unlink()
    for name in folder.names:
        with pytest.raises(DataError, match="has changed or is gone"):
            folder.load(name, 16_000)
    with pytest.raises(DataError, match="not there when the folder was listed"):
        folder.load("../secret.wav", 16_000)


def test_files_are_decoded_once_and_memory_is_bounded(tmp_path, monkeypatch):
    for number in range(6):
        write(tmp_path / f"{number}.wav", 1.0)  # 64,000 bytes decoded
    folder = found(tmp_path)
    first = folder.load("0.wav", 16_000)
    assert folder.load("0.wav", 16_000) is first
    assert not first.flags.writeable
    assert len(folder.load("0.wav", 8_000)) == 8_000
    monkeypatch.setattr(recordings, "CACHE_BYTES", 200_000)
    for number in range(6):
        folder.load(f"{number}.wav", 16_000)
    assert sum(samples.nbytes for samples in recordings._samples.values()) <= 200_000
    assert folder.load("0.wav", 16_000) is not first


def test_of_a_long_file_the_start_is_read(tmp_path):
    write(tmp_path / "long.wav", 2.0)
    assert len(recordings.read_start(tmp_path / "long.wav", 0.5, 16_000).samples) == 8_000
    assert len(recordings.read_start(tmp_path / "long.wav", 5, 16_000).samples) == 32_000
