"""Forty deliberately bad recordings beside ten good ones: ten are used, forty are named, each with its reason."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import chirp, encoded

from myna.data.catalog import Catalog
from myna.samples import RefusalReason as Reason

TRUNCATABLE = ("wav", "mp3", "flac", "ogg", "m4a", "aac", "wma")
HOURS_2 = 7200
# Root may read everything, so a root's tests run without that privilege.
WITHOUT_PRIVILEGE = "-dac_override,-dac_read_search"
PREPARE = """
import sys
from myna.data.prepare import prepare
if __name__ == "__main__":
    report = prepare([sys.argv[1]], sys.argv[2], workers=2)
    print(report.splits, report.refusals)
"""


def tone(number: int, seconds: float = 1.0, rate_hz: int = 16_000) -> np.ndarray:
    """Samples that differ from number to number."""
    return chirp(seconds + 0.05 * number, rate_hz)


def run_without_privilege(*arguments: str | Path) -> str:
    """Standard output of a Python process that succeeds and complains of nothing."""
    command = [sys.executable, *map(str, arguments)]
    if os.geteuid() == 0:
        command = ["setpriv", f"--bounding-set={WITHOUT_PRIVILEGE}", f"--inh-caps={WITHOUT_PRIVILEGE}", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class Folder:
    """Files, and what the manifest says about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[str]] = []
        self.good: set[str] = set()
        self.bad: dict[str, Reason] = {}

    def add(self, name: str, content: bytes | None, reason: Reason | None, text="hello there", extra=("", "", "")):
        if content is not None:
            (self.path / name).write_bytes(content)
        self.rows.append([name, text, *extra])
        if reason is None:
            self.good.add(name)
        else:
            self.bad[name] = reason

    def write_manifest(self) -> None:
        with (self.path / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file_path", "transcript", "duration", "offset", "split"], *self.rows])


def add_good(folder: Folder) -> None:
    for number, kind in enumerate(TRUNCATABLE):
        folder.add(f"good.{kind}", encoded(kind, tone(number), 16_000), None)
    seven_channels = np.stack([tone(7, rate_hz=8_000)] * 7, axis=1)
    folder.add("seven channels at 8 kHz.wav", encoded("wav", seven_channels, 8_000), None)
    folder.add("192 kHz.flac", encoded("flac", tone(8, rate_hz=192_000), 192_000), None)
    folder.add("tiếng Việt, thật ra là mp3.wav", encoded("mp3", tone(9), 16_000), None)


def add_broken_content(folder: Folder) -> None:
    for number, kind in enumerate(TRUNCATABLE):
        content = encoded(kind, tone(20 + number), 16_000)
        folder.add(f"truncated.{kind}", content[: len(content) * 6 // 10], Reason.TRUNCATED)
    whole = encoded("mp3", tone(30), 16_000)
    folder.add("bị cắt cụt giữa chừng.mp3", whole[: len(whole) // 2], Reason.TRUNCATED)
    folder.add("header only.wav", encoded("wav", tone(31), 16_000)[:44], Reason.TRUNCATED)
    folder.add("zero bytes.wav", b"", Reason.EMPTY_AUDIO)
    folder.add("no samples.wav", encoded("wav", np.zeros(0, np.float32), 16_000), Reason.EMPTY_AUDIO)
    folder.add("no samples.flac", encoded("flac", np.zeros(0, np.float32), 16_000), Reason.EMPTY_AUDIO)
    folder.add("text.wav", b"this is no audio at all\n" * 50, Reason.UNREADABLE)
    folder.add("văn bản có dấu.wav", "đây không phải là âm thanh\n".encode() * 50, Reason.UNREADABLE)
    folder.add("garbage.mp3", np.random.default_rng(1).bytes(20_000), Reason.UNREADABLE)
    folder.add("picture.flac", b"\x89PNG\r\n\x1a\n" + bytes(5_000), Reason.UNREADABLE)
    folder.add("zipped.wav", gzip.compress(encoded("wav", tone(32), 16_000)), Reason.UNREADABLE)


def add_unusable_sound(folder: Folder) -> None:
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        samples = tone(40)
        samples[5_000] = value
        soundfile.write(folder.path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        folder.add(f"{name}.wav", None, Reason.NOT_FINITE)
    with wave.open(str(folder.path / "two hours.wav"), "wb") as file:
        file.setparams((1, 1, 8_000, 0, "NONE", ""))
        file.writeframes(bytes([128]) * 8_000 * HOURS_2)
    folder.add("two hours.wav", None, Reason.TOO_LONG)
    folder.add("31 s.ogg", encoded("ogg", tone(0, 31.0, 8_000), 8_000), Reason.TOO_LONG)
    folder.add("short.wav", encoded("wav", tone(0, 0.2), 16_000), Reason.TOO_SHORT)
    folder.add("digital silence.wav", encoded("wav", np.zeros(16_000, np.float32), 16_000), Reason.SILENT)
    folder.add("hiss.flac", encoded("flac", tone(41) * 1e-4, 16_000), Reason.SILENT)
    folder.add("clipped.wav", encoded("wav", np.clip(tone(42) * 20, -1, 1), 16_000), Reason.CLIPPED)
    folder.add("the same again.wav", (folder.path / "good.wav").read_bytes(), Reason.DUPLICATE)


def add_strange_entries(folder: Folder) -> None:
    (folder.path / "loop.wav").symlink_to("loop.wav")
    folder.add("loop.wav", None, Reason.UNREADABLE)
    (folder.path / "dangling.wav").symlink_to("nowhere.wav")
    folder.add("dangling.wav", None, Reason.MISSING_FILE)
    (folder.path / "directory.wav").mkdir()
    folder.add("directory.wav", None, Reason.UNREADABLE)
    os.mkfifo(folder.path / "pipe.wav")
    folder.add("pipe.wav", None, Reason.UNREADABLE)
    folder.add("private.wav", encoded("wav", tone(50), 16_000), Reason.UNREADABLE)
    (folder.path / "private.wav").chmod(0)
    folder.add("missing.wav", None, Reason.MISSING_FILE)


def add_bad_rows(folder: Folder) -> None:
    def content(number: int) -> bytes:
        return encoded("wav", tone(number), 16_000)

    folder.add("nothing said.wav", content(60), Reason.EMPTY_TRANSCRIPT, text="")
    folder.add("only marks.wav", content(61), Reason.EMPTY_TRANSCRIPT, text="?! …")
    folder.add("duration in words.wav", content(62), Reason.BAD_ROW, extra=("two", "", ""))
    folder.add("negative offset.wav", content(63), Reason.BAD_ROW, extra=("1", "-1", ""))
    folder.add("unknown split.wav", content(64), Reason.BAD_ROW, extra=("", "", "holdout"))
    folder.add("unquoted, comma.wav", content(65), Reason.BAD_ROW, extra=("", "", "", "train"))
    folder.add("claims nine seconds.wav", content(66), Reason.TRUNCATED, extra=("9", "", ""))
    folder.add("segment beyond the end.wav", content(67), Reason.TRUNCATED, extra=("1", "100", ""))


@pytest.mark.slow
def test_ten_are_used_and_forty_are_named(tmp_path):
    folder = Folder(tmp_path / "recordings")
    folder.path.mkdir()
    for add in (add_good, add_broken_content, add_unusable_sound, add_strange_entries, add_bad_rows):
        add(folder)
    folder.write_manifest()
    assert (len(folder.good), len(folder.bad)) == (10, 40)

    (tmp_path / "prepare.py").write_text(PREPARE)
    run_without_privilege(tmp_path / "prepare.py", folder.path, tmp_path / "catalog.db")

    with Catalog(tmp_path / "catalog.db") as catalog:
        used = {Path(utterance.audio_path).name for utterance in catalog.utterances()}
        refusals = list(catalog.refusals())
    assert used == folder.good
    assert {Path(refusal.audio_path).name: refusal.reason for refusal in refusals} == folder.bad
    assert len(refusals) == 40
    assert all(refusal.detail for refusal in refusals)


@pytest.mark.slow
def test_folders_that_cannot_be_opened_are_named(tmp_path):
    for name in ("a.wav", "a.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "closed").mkdir(mode=0)
    code = "import sys; from myna.data.sources.read import read_source; print(*read_source(sys.argv[1]), sep='\\n')"
    recording, refusal = run_without_privilege("-c", code, tmp_path).splitlines()
    assert recording.startswith("Recording(")
    assert refusal.startswith(
        f"Refusal(audio_path='{tmp_path}/closed', transcript='', reason=<RefusalReason.UNREADABLE"
    )
