from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import soundfile

from myna.transcribe.discover import find_audio


def write_tone(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.sin(np.arange(1_600) / 5)
    soundfile.write(path, samples, 16_000, format="WAV")
    return path


def names(found: list) -> list[str]:  # type: ignore[type-arg]
    return [file.output_name.as_posix() for file in found]


def test_folders_are_searched_by_content(tmp_path: Path) -> None:
    write_tone(tmp_path / "b.wav")
    write_tone(tmp_path / "deep/er/no ending")
    write_tone(tmp_path / "Tiếng Việt.xyz")
    write_tone(tmp_path / ".hidden/a.wav")
    write_tone(tmp_path / "._b.wav")
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "broken.mp3").write_text("no audio, but it says so")
    (tmp_path / "x.wav").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = find_audio([tmp_path])
    assert [file.path.relative_to(tmp_path).as_posix() for file in found] == [
        "Tiếng Việt.xyz",
        "b.wav",
        "broken.mp3",
        "deep/er/no ending",
    ]
    assert names(found) == ["Tiếng Việt", "b", "broken", "deep/er/no ending"]


def test_named_files_are_always_taken_and_only_once(tmp_path: Path) -> None:
    clip = write_tone(tmp_path / "a.wav")
    found = find_audio([str(clip), tmp_path / "missing.wav", tmp_path])
    assert [file.path for file in found] == [clip, tmp_path / "missing.wav"]


def test_output_names_never_collide(tmp_path: Path) -> None:
    clips = [write_tone(tmp_path / name) for name in ("one/a.wav", "one/a.mp3", "two/a.wav", "two/b.wav")]
    found = find_audio(clips)
    assert names(found) == ["a.wav", "a.mp3", "a.wav-2", "b"]
    assert len(set(names(found))) == len(found)
    assert found[3].output_name == PurePath("b")


def test_folder_that_may_not_be_read_is_not_lost(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    write_tone(locked / "a.wav")
    locked.chmod(0)
    try:
        found = find_audio([tmp_path])
        if [file.path for file in found] == [locked / "a.wav"]:
            return  # a superuser reads everything
        assert [file.path for file in found] == [locked]
    finally:
        locked.chmod(0o755)
