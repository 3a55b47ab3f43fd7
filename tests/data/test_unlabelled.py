"""Recordings without transcripts: let in from every kind of source when asked for, and never otherwise."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from myna.config import load_config
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.data.sources.read import read_source
from myna.errors import SourceError
from myna.samples import Recording, Refusal

NAMES = ("one", "two", "three")
KEEP_ALL = ["data.valid_ratio=0", "data.test_ratio=0"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three recordings of a second and nothing else."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 16_000)
        soundfile.write(folder / f"{name}.wav", noise, 16_000)
    return folder


def bare_folder(clips: Path) -> Path:
    return clips


def csv(clips: Path) -> Path:
    (clips / "metadata.csv").write_text("path\n" + "".join(f"{name}.wav\n" for name in NAMES))
    return clips


def json_lines(clips: Path) -> Path:
    rows = [{"audio_filepath": f"{name}.wav", "duration": 1.0} for name in NAMES]
    (clips / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return clips / "manifest.json"


def kaldi(clips: Path) -> Path:
    (clips / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in NAMES))
    return clips


def tar(clips: Path) -> Path:
    with tarfile.open(clips / "all.tar", "w") as archive:
        for name in NAMES:
            archive.add(clips / f"{name}.wav", f"{name}.wav")
        about = json.dumps({"speaker": "ann"}).encode()
        member = tarfile.TarInfo("one.json")
        member.size = len(about)
        archive.addfile(member, io.BytesIO(about))
    return clips / "all.tar"


def dataset(clips: Path) -> Path:
    import datasets

    rows = datasets.Dataset.from_dict({"audio": [str(clips / f"{name}.wav") for name in NAMES]})
    rows.save_to_disk(clips / "saved")
    return clips / "saved"


@pytest.mark.parametrize("source", [bare_folder, csv, json_lines, kaldi, tar, dataset], ids=lambda kind: kind.__name__)
def test_every_kind_of_source_lets_them_in_only_when_asked(source, clips, tmp_path):
    place = source(clips)
    rows = list(read_source(place, needs_transcripts=False, media_dir=tmp_path / "media"))
    assert [type(row) for row in rows] == [Recording] * 3
    assert {row.transcript for row in rows} == {""}
    try:
        strict = list(read_source(place, media_dir=tmp_path / "media"))
    except SourceError:
        return
    assert strict and all(isinstance(row, Refusal) for row in strict)


def test_a_version_of_them_says_so_and_labelled_rows_stay_as_strict(clips, tmp_path):
    shutil.copy(clips / "one.wav", clips / "copy.wav")
    soundfile.write(clips / "four.wav", np.random.default_rng(9).uniform(-0.5, 0.5, 16_000), 16_000)
    rows = ["path,text", "one.wav,", "copy.wav,hello", "two.wav,", "three.wav,?!", "four.wav,ho"]
    (clips / "metadata.csv").write_text("\n".join(rows) + "\n")
    settings = load_config([], ["data.transcripts=optional", *KEEP_ALL]).prepare_settings()
    report = prepare([clips], tmp_path / "a.db", settings, workers=0)
    assert report.notes[-1] == "1 recordings have no transcript: they serve pre-training alone"
    assert report.refusals == {"duplicate": 1, "empty_transcript": 1}  # of copies the one with words stays
    with Catalog(tmp_path / "a.db") as catalog:
        found = {Path(row.audio_path).name: row.text for row in catalog.utterances()}
    assert found == {"copy.wav": "hello", "two.wav": "", "four.wav": "ho"}
    strict = prepare([clips], tmp_path / "b.db", PrepareSettings(valid_ratio=0, test_ratio=0), workers=0)
    assert strict.refusals == {"empty_transcript": 3}
