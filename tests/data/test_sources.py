"""One contract for every kind of source, and what each kind does with its own kinds of trouble."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import chirp, encoded

from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.data.sources.read import read_source
from myna.errors import MissingExtraError, SourceError
from myna.samples import Recording, Refusal, RefusalReason

CLIPS = {  # name -> transcript; a quote, a comma, tones, and spaces in names
    "one.wav": "Xin chào, thế giới",
    "two.flac": 'She said "yes", twice.',
    "ba bốn.mp3": "ba bốn năm",
    "five.ogg": "five six",
    "seven.m4a": "İstanbul'da yağmur",
    "eight.wma": "eight nine ten",
}
SPLITS = {name: ("train", "train", "train", "dev", "test", "test")[i] for i, name in enumerate(CLIPS)}
SPEAKERS = {name: ("an", "an", "bình", "cy", "dee", "dee")[i] for i, name in enumerate(CLIPS)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(CLIPS):
        samples = chirp(1 + number / 4, 16_000)
        (folder / name).write_bytes(encoded(name.split(".")[1], samples, 16_000))
    return folder


def records(audio: str, text: str, extras: dict[str, str] | None = None, prefix: str = "") -> list[dict[str, object]]:
    """One mapping a clip, with the column names given; extras: role -> column name."""
    extras = extras or {}
    rows = []
    for name, transcript in CLIPS.items():
        row: dict[str, object] = {audio: prefix + name, text: transcript}
        if "split" in extras:
            row |= {extras["split"]: SPLITS[name], extras["speaker"]: SPEAKERS[name]}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# Each maker fills a folder with the clips and returns what `myna prepare` is given.
def metadata_csv(folder: Path, clips: Path, extras) -> Path:
    shutil.copytree(clips, folder / "audio")
    write_csv(folder / "metadata.csv", records("file_path", "transcript", extras, "audio/"), encoding="utf-8-sig")
    return folder


def metadata_json(folder: Path, clips: Path, extras) -> Path:
    shutil.copytree(clips, folder, dirs_exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps(records("path", "sentence", extras)))
    return folder


def metadata_jsonl(folder: Path, clips: Path, extras) -> Path:
    shutil.copytree(clips, folder, dirs_exist_ok=True)
    write_lines(folder / "metadata.jsonl", records("file_name", "transcription", extras))
    return folder


def semicolons(folder: Path, clips: Path, extras) -> Path:
    write_csv(folder / "list.csv", records("Audio File", "Text", extras, f"{clips}/"), ";", "utf-16")
    return folder / "list.csv"


def tabs(folder: Path, clips: Path, extras) -> Path:
    write_csv(folder / "list.tsv", records("wav", "text", extras, f"{clips}/"), "\t")
    return folder / "list.tsv"


def json_list(folder: Path, clips: Path, extras) -> Path:
    (folder / "list.json").write_text(json.dumps(records("audio", "text", extras, f"{clips}/"), ensure_ascii=False))
    return folder / "list.json"


def nemo(folder: Path, clips: Path, extras) -> Path:
    rows = records("audio_filepath", "text", extras, f"{clips}/")
    durations = {f"{clips}/{name}": 1 + number / 4 for number, name in enumerate(CLIPS)}
    write_lines(folder / "manifest.json", [{**row, "duration": durations[row["audio_filepath"]]} for row in rows])
    return folder / "manifest.json"


def kaldi(folder: Path, clips: Path, extras) -> Path:
    for split in ("train", "dev", "test") if extras else ("all",):
        part = folder / split
        part.mkdir()
        names = [name for name in CLIPS if not extras or SPLITS[name] == split]
        ids = {name: f"utt{number}" for number, name in enumerate(names)}
        (part / "wav.scp").write_text("".join(f"{ids[name]} {clips / name}\n" for name in names))
        (part / "text").write_text("".join(f"{ids[name]} {CLIPS[name]}\n" for name in names))
        speakers = {name: SPEAKERS[name] if extras else ids[name] for name in names}
        (part / "utt2spk").write_text("".join(f"{ids[name]} {speakers[name]}\n" for name in names))
    return folder if extras else folder / "all"


def sidecars(folder: Path, clips: Path, extras) -> Path:
    for name, transcript in CLIPS.items():
        part = folder / SPLITS[name] / "deeper" if extras else folder
        part.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / name, part / name)
        (part / name).with_suffix(".txt").write_text(transcript + "\n")
    return folder


def hugging_face(folder: Path, clips: Path, extras) -> Path:
    import datasets

    def part(names: list[str]):
        columns = {
            "audio": [{"bytes": (clips / name).read_bytes(), "path": name} for name in names],
            "sentence": [CLIPS[name] for name in names],
        }
        if extras:
            columns["client_id"] = [SPEAKERS[name] for name in names]
        return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())

    if extras:
        names_of = {split: [name for name in CLIPS if SPLITS[name] == split] for split in ("train", "dev", "test")}
        names_of["validation"] = names_of.pop("dev")
        datasets.DatasetDict({split: part(names) for split, names in names_of.items()}).save_to_disk(folder / "saved")
    else:
        part(list(CLIPS)).save_to_disk(folder / "saved")
    return folder / "saved"


def parquet(folder: Path, clips: Path, extras) -> Path:
    import datasets

    hugging_face(folder, clips, extras)
    saved = datasets.load_from_disk(folder / "saved")
    parts = dict(saved) if extras else {"": saved}
    (folder / "hub" / "data").mkdir(parents=True)
    for split, part in parts.items():
        part.to_parquet(folder / "hub" / "data" / f"{split or 'all'}-00000-of-00001.parquet")
    return folder / "hub"


def tars(folder: Path, clips: Path, extras) -> Path:
    """WebDataset: transcripts in .txt, or in .json where there is more to say; one tar, or one a split."""
    for name, transcript in CLIPS.items():
        part = f"{SPLITS[name]}/000000.tar" if extras else "all.tar"
        (folder / part).parent.mkdir(exist_ok=True)
        stem = Path(name).stem
        with tarfile.open(folder / part, "a") as tar:
            tar.add(clips / name, name)
            fields = json.dumps({"text": transcript, "speaker": SPEAKERS[name]}).encode()
            member = tarfile.TarInfo(f"{stem}.json" if extras else f"{stem}.txt")
            content = fields if extras else transcript.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder if extras else folder / "all.tar"


MAKERS = [
    metadata_csv,
    metadata_json,
    metadata_jsonl,
    semicolons,
    tabs,
    json_list,
    nemo,
    kaldi,
    sidecars,
    hugging_face,
    tars,
]


@pytest.fixture
def _quiet_datasets(monkeypatch, tmp_path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def prepared(source: Path, folder: Path):
    """The version's ID, and its utterances without the places of their files."""
    db = folder / "catalog.db"
    report = prepare([source], db, PrepareSettings(language="vi"), workers=0)
    with Catalog(db) as catalog:
        found = [replace(utterance, audio_path="") for utterance in catalog.utterances()]
    return report.version, found, report.refusals


@pytest.mark.usefixtures("_quiet_datasets")
def test_every_kind_gives_the_same_version(clips, tmp_path):
    results = {}
    for maker in MAKERS:
        folder = tmp_path / maker.__name__
        folder.mkdir()
        results[maker.__name__] = prepared(maker(folder, clips, None), folder)
    version, utterances, refusals = results["metadata_csv"]
    assert refusals == {}
    assert sorted(utterance.transcript for utterance in utterances) == sorted(CLIPS.values())
    assert {name: result for name, result in results.items() if result != (version, utterances, {})} == {}


@pytest.mark.usefixtures("_quiet_datasets")
def test_every_kind_that_names_splits_and_speakers_gives_the_same_version(clips, tmp_path):
    extras = {"split": "split", "speaker": "speaker_id"}
    results = {}
    for maker in (*MAKERS, parquet):
        if maker is sidecars:  # they cannot name speakers
            continue
        folder = tmp_path / maker.__name__
        folder.mkdir()
        results[maker.__name__] = prepared(maker(folder, clips, extras), folder)
    version, utterances, _ = results["metadata_csv"]
    by_text = {utterance.transcript: utterance for utterance in utterances}
    for name, transcript in CLIPS.items():
        assert by_text[transcript].split == SPLITS[name].replace("dev", "valid")
        assert by_text[transcript].speaker_id == SPEAKERS[name]
    assert {name: result for name, result in results.items() if result != (version, utterances, {})} == {}


def test_folders_of_sidecars_give_their_split(clips, tmp_path):
    rows = list(read_source(sidecars(tmp_path, clips, True)))
    assert {row.audio_path.name: row.split for row in rows} == {
        name: split.replace("dev", "valid") for name, split in SPLITS.items()
    }


def read(path: Path, content: str | bytes, **options) -> list[Recording | Refusal]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_source(path, **options))


def details(rows: list[Recording | Refusal]) -> list[str]:
    return [row.detail for row in rows if isinstance(row, Refusal)]


def test_columns_can_be_named(tmp_path):
    content = "clip_nr,words,who,path\na.wav,hi,ann,wrong\n"
    columns = {"audio": "clip_nr", "transcript": "words", "speaker_id": "who", "split": ""}
    (row,) = read(tmp_path / "a.csv", content, columns=columns, language="en")
    assert row == Recording(tmp_path / "a.wav", "hi", speaker_id="ann", language="en")


def test_a_missing_column_lists_what_is_there(tmp_path):
    with pytest.raises(
        SourceError, match=r"expected a column for the transcript .*; received the columns 'path', 'wrds'"
    ):
        read(tmp_path / "a.csv", "path,wrds\na.wav,hi\n")
    with pytest.raises(SourceError, match=r"expected a column 'words' for the transcript \(did you mean wrds\?\)"):
        read(tmp_path / "a.csv", "path,wrds\na.wav,hi\n", columns={"transcript": "words"})


def test_broken_csv_rows_are_named_and_the_rest_is_read(tmp_path):
    content = (
        b"path,text,duration,split\n"
        b"a.wav,good,1.5,train\n"
        b"b.wav,caf\xe9,1,\n"  # Latin-1
        b"c.wav,too,many,train,fields\n"
        b"d.wav\n"
        b",no path,,\n"
        b"e.wav,nan,nan,\n"
        b"\n"
        b"f.wav,x,-1,\n"
        b"g\0.wav,x,,\n"
        b"h.wav,x,,eval\n"
        b'i.wav,"two\nlines",,Validation\n'
    )
    rows = read(tmp_path / "a.csv", content)
    good = [row for row in rows if isinstance(row, Recording)]
    assert [row.audio_path.name for row in good] == ["a.wav", "i.wav"]
    assert good[0].duration_seconds == 1.5
    assert good[1].split == "valid"
    assert all(row.reason == RefusalReason.BAD_ROW for row in rows if isinstance(row, Refusal))
    expected = [
        "UTF-8",
        "5: quote",
        "without transcript",
        "the path",
        "at least 0",
        "at least 0",
        "NUL",
        "received 'eval'",
    ]
    assert [word in detail for word, detail in zip(expected, details(rows), strict=True)] == [True] * 8
    assert f"{tmp_path}/a.csv, line 3: " in details(rows)[0]


def test_an_unclosed_quote_costs_its_rows_only(tmp_path):
    body = "".join(f"{number}.wav,text\n" for number in range(150_000))
    rows = read(tmp_path / "a.csv", 'path,text\nx.wav,"never closed\n' + body)
    assert "field larger than field limit" in details(rows)[0]
    assert len(rows) > 50_000


def test_tabs_leave_quotes_alone(tmp_path):
    rows = read(tmp_path / "a.tsv", 'path\tsentence\na.wav\t"Hi\nb.wav\t"Ho" he said\nc.wav\t"say ""x"""\n')
    assert [row.transcript for row in rows] == ['"Hi', '"Ho" he said', 'say "x"']


def test_json_values_of_wrong_kinds(tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "text": "good", "offset": 0, "duration": 2},
        {"audio_filepath": "a.wav", "text": 7},
        {"audio_filepath": "b.wav", "text": None},
        {"audio_filepath": 5, "text": "x"},
        {"audio_filepath": "c.wav", "text": "x", "duration": True},
        {"audio_filepath": "d.wav", "text": "x", "offset": float("inf")},
        {"audio_filepath": "e.wav", "text": "\ud800"},
        {"audio_filepath": "x" * 5000, "text": "x"},
        {"audio_filepath": "f.wav", "text": "x" * 20_000},
        "a string",
    ]
    found = read(tmp_path / "a.json", json.dumps(rows))
    assert found[0] == Recording(tmp_path / "a.wav", "good", duration_seconds=2, offset_seconds=0)
    assert isinstance(found[1], Recording)
    assert found[1].transcript == "7"
    assert [type(row) for row in found[2:]] == [Refusal] * 8
    for refusal in found[2:]:
        f"{refusal}".encode()  # can be stored and printed


def test_broken_json_lines_are_named(tmp_path):
    found = read(tmp_path / "a.jsonl", '{"path": "a.wav", "text": "x"}\n{"path": "b.w\n\n[1]\n' + "[" * 100_000 + "\n")
    assert [type(row) for row in found] == [Recording, Refusal, Refusal, Refusal]
    assert "line 4" in details(found)[1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("[1, 2", "expected a JSON list"), ("", "received the columns none"), ("[]", "received the columns none")],
)
def test_manifests_that_cannot_be_understood(tmp_path, content, expected):
    with pytest.raises(SourceError, match=expected):
        read(tmp_path / "a.json", content)


def test_paths_that_are_no_source(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for spec, expected in [
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path / "a.wav", "one audio file"),
        (tmp_path / "empty", "none of these"),
        ("x" * 5000, "expected a source"),
    ]:
        with pytest.raises(SourceError, match=expected):
            list(read_source(spec))


def test_two_metadata_files_are_ambiguous(tmp_path):
    (tmp_path / "metadata.csv").touch()
    (tmp_path / "metadata.json").touch()
    with pytest.raises(SourceError, match=r"received metadata\.csv, metadata\.json"):
        list(read_source(tmp_path))


def test_sidecars_without_a_partner_are_named(tmp_path):
    for name in ("a.wav", "a.txt", "b.MP3", "c.txt", "d.strange", "d.txt", "e.pdf", ".hidden.wav"):
        (tmp_path / name).write_text("words\nin two lines")
    (tmp_path / "loop").symlink_to(tmp_path)
    rows = list(read_source(tmp_path))
    assert [(row.audio_path.name, row.transcript) for row in rows if isinstance(row, Recording)] == [
        ("a.wav", "words in two lines"),
        ("d.strange", "words in two lines"),
    ]
    refusals = {Path(row.audio_path).name: row.reason for row in rows if isinstance(row, Refusal)}
    assert refusals == {"b.MP3": RefusalReason.BAD_ROW, "c": RefusalReason.MISSING_FILE}


def test_kaldi_segments_and_pipes(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "wav.scp").write_text(f"rec1 long.wav\nrec2 touch {marker} |\n")
    (tmp_path / "text").write_text("u1 one two\nu2 three\nu3 four\nu4 five\nu5\nu6 six\nu7 seven\n")
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 u2\n")
    (tmp_path / "segments").write_text(
        "u1 rec1 0.00 1.20\nu2 rec1 1.2 -1\nu3 rec2 0 1\nu4 rec9 0 1\nu5 rec1 2 3\nu6 rec1 3 2\n"
    )
    rows = list(read_source(tmp_path))
    assert rows[0] == Recording(tmp_path / "long.wav", "one two", "", "ann", "", 1.2, 0.0)
    assert rows[1] == Recording(tmp_path / "long.wav", "three", "", "", "", None, 1.2)
    assert rows[4] == Recording(tmp_path / "long.wav", "", "", "", "", 1.0, 2.0)  # refused later: nothing is said
    assert [
        word in detail
        for word, detail in zip(["never run", "'rec9'", "after its start", "u7"], details(rows), strict=True)
    ]
    assert not marker.exists()


def test_a_hugging_face_split_of_another_name_is_named(clips, tmp_path):
    import datasets

    part = datasets.Dataset.from_dict({"path": ["a.wav", "b.wav"], "text": ["x", "y"]})
    datasets.DatasetDict({"train": part, "invalidated": part}).save_to_disk(tmp_path / "saved")
    rows = list(read_source(tmp_path / "saved"))
    assert [type(row) for row in rows] == [Recording, Recording, Refusal]
    assert "its 2 rows are left out" in details(rows)[0]


def test_embedded_audio_is_written_once(clips, tmp_path):
    source = hugging_face(tmp_path, clips, None)
    first = [row.audio_path for row in read_source(source, media_dir=tmp_path / "media")]
    times = [path.stat().st_mtime_ns for path in first]
    again = [row.audio_path for row in read_source(source, media_dir=tmp_path / "media")]
    assert again == first
    assert [path.stat().st_mtime_ns for path in again] == times
    assert [path.read_bytes() for path in first] == [(clips / name).read_bytes() for name in CLIPS]


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'myna\[datasets\]'"):
        list(read_source("hf:org/name"))


def test_a_folder_that_is_no_dataset_is_a_source_error(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(SourceError, match="expected a Hugging Face dataset"):
        list(read_source(tmp_path))
