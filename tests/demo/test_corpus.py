"""The corpus: planned from a seed, same bytes every time, speakers apart, whole or not there."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from myna.audio.decode import decode
from myna.demo.corpus import COLUMNS, VOICES, Recipe, add_noise, plan_clips, write_corpus
from myna.errors import DataError

SMALL = Recipe(train_clips=6, valid_clips=2, test_clips=3)


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_speakers_and_sentences_are_apart() -> None:
    plans = plan_clips(Recipe())
    for part in ("voice", "transcript"):
        train, valid, test = ({getattr(p, part) for p in plans if p.split == split} for split in VOICES)
        assert not (train & valid or train & test or valid & test)
    assert len({plan.file_path for plan in plans}) == len(plans) == 1_740


def test_plans_depend_on_the_seed_alone() -> None:
    assert plan_clips(SMALL) == plan_clips(SMALL)
    assert plan_clips(SMALL) != plan_clips(Recipe(6, 2, 3, seed=1))


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_keeps_to_its_ratio_and_colour(colour: float) -> None:
    speech = np.sin(np.arange(32_000, dtype=np.float32))
    noise = add_noise(speech, 10.0, colour, np.random.default_rng(0)) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.01)
    power = np.square(np.abs(np.fft.rfft(noise)))
    low, high = power[500:1_000].mean(), power[5_000:10_000].mean()  # a decade apart
    assert np.log10(low / high) == pytest.approx(colour, abs=0.1)


@pytest.mark.slow
def test_writes_the_same_corpus_on_one_core_and_on_two(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    one = write_corpus(tmp_path / "one", SMALL, workers=1, on_progress=lambda *call: calls.append(call))
    two = write_corpus(tmp_path / "two", SMALL, workers=2)
    assert fingerprint(one.folder) == fingerprint(two.folder)
    assert calls[-1] == (11, 11)
    assert one.clips == {"train": 6, "valid": 2, "test": 3}
    assert not one.reused
    assert write_corpus(tmp_path / "one", SMALL).reused
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_what_is_written_is_what_was_planned(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", SMALL)
    with (corpus.folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    plans = plan_clips(SMALL)
    assert [(r["file_path"], r["transcript"], r["split"], r["speaker_id"]) for r in rows] == [
        (p.file_path, p.transcript, p.split, p.voice) for p in plans
    ]
    for row in rows:
        clip = decode(corpus.folder / row["file_path"])
        assert clip.duration_seconds == pytest.approx(float(row["duration"]), abs=1e-3)
        assert np.abs(clip.samples).max() == pytest.approx(0.7, abs=0.01)
    assert corpus.hours == pytest.approx(sum(float(row["duration"]) for row in rows) / 3_600)


@pytest.mark.slow
def test_a_damaged_or_different_corpus_is_made_anew(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", SMALL)
    first = fingerprint(corpus.folder)
    (corpus.folder / "clips" / "test-00001.flac").unlink()
    assert not write_corpus(tmp_path / "corpus", SMALL).reused
    assert fingerprint(corpus.folder) == first
    assert write_corpus(tmp_path / "corpus", Recipe(2, 1, 1)).clips == {"train": 2, "valid": 1, "test": 1}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(DataError, match="holds something else"):
        write_corpus(tmp_path, SMALL)
    assert (tmp_path / "letter.txt").read_text() == "keep me"
