"""Shards: what goes in comes out, bit for bit, whatever happens in between."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import chirp, encoded

from myna.audio.addresses import fetch
from myna.audio.decode import decode
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.data.shards.index import ShardIndex
from myna.data.shards.verify import verify
from myna.data.shards.write import write_shards
from myna.errors import DataError, VersionError
from myna.samples import SPLITS

ROOT = Path(__file__).resolve().parents[3]


def files_of(folder: Path) -> dict[str, str]:
    """Relative path -> hash of each visible file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def written(db: Path, out: Path, **options):
    return write_shards(db, out, **{"shard_mb": 0.3, "workers": 0, **options})


@pytest.fixture(scope="module")
def shards(tone_catalog, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    written(tone_catalog, out)
    return out


@pytest.fixture(scope="module")
def segments_db(tmp_path_factory) -> Path:
    """Segments of long files (16 bits mono, mp3 stereo), and whole ones in several formats."""
    folder = tmp_path_factory.mktemp("segments")
    long = np.concatenate([chirp(2.0, 22_050) * gain for gain in (1.0, 0.7, 0.5, 0.3)])
    soundfile.write(folder / "long.wav", long, 22_050, subtype="PCM_16")
    (folder / "long.mp3").write_bytes(encoded("mp3", np.stack([long, long], axis=1), 22_050))
    rows = [("long.wav", f"w {n}", n * 2.0, 1.5) for n in range(4)]
    rows += [("long.mp3", f"m {n}", n * 2.0 + 0.25, 1.5) for n in range(4)]
    for number, kind in enumerate(("wav", "flac", "ogg", "mp3", "m4a", "wma")):
        (folder / f"x.{kind}").write_bytes(encoded(kind, chirp(1.0 + number / 4), 16_000))
        rows.append((f"x.{kind}", f"whole {kind}", "", ""))
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "offset", "duration", "split"])
        writer.writerows([*row, "train"] for row in rows)
    prepare([folder / "list.csv"], folder / "catalog.db", PrepareSettings(valid_ratio=0.1), workers=0)
    return folder / "catalog.db"


def test_round_trip_is_bit_equal_and_in_the_catalogs_order(tone_catalog, shards):
    index = ShardIndex(shards)
    with Catalog(tone_catalog) as catalog:
        assert index.version_id == catalog.version().version_id
        for split in SPLITS:
            expected = list(catalog.utterances(split=split))
            found = index.utterances(split)
            assert [replace(u, audio_path="") for u in found] == [replace(u, audio_path="") for u in expected]
            for content, before in zip(fetch([u.audio_path for u in found]), expected, strict=True):
                assert content == Path(before.audio_path).read_bytes()
            tars = sorted({u.audio_path.partition("#")[0] for u in found})
            assert [tars[number] for number in index.shard_of(split)] == [u.audio_path.partition("#")[0] for u in found]
    assert len(index.manifest.shards) > 3


def test_two_runs_give_the_same_bytes(tone_catalog, shards, tmp_path):
    report = written(tone_catalog, tmp_path)
    assert report.made == report.shards == len(ShardIndex(shards).manifest.shards)
    assert files_of(tmp_path) == files_of(shards)
    again = written(tone_catalog, tmp_path)
    assert (again.made, replace(again, made=0)) == (0, replace(report, made=0))
    with Catalog(tone_catalog) as catalog:
        assert report.utterances == catalog.version().num_utterances
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))


def test_the_standard_library_reads_the_tars(tone_catalog, shards):
    with Catalog(tone_catalog) as catalog:
        expected = {u.utterance_id: u for u in catalog.utterances()}
    seen = set()
    for path in shards.rglob("*.tar"):
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
            for audio, fields in zip(members[::2], members[1::2], strict=True):
                record = json.load(tar.extractfile(fields))
                content = tar.extractfile(audio).read()
                utterance = expected[record["utterance_id"]]
                assert audio.name == f"{utterance.utterance_id}.wav"
                assert fields.name == f"{utterance.utterance_id}.json"
                assert record["sha256"] == hashlib.sha256(content).hexdigest()
                assert {key: record[key] for key in record if key != "sha256"} == {
                    key: getattr(utterance, key) for key in record if key != "sha256"
                }
                seen.add(utterance.utterance_id)
    assert seen == set(expected)


WEBDATASET = """
import hashlib, json, sys, webdataset
pairs = {}
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False):
    record = json.loads(sample["json"])
    assert record["utterance_id"] == sample["__key__"]
    pairs[sample["__key__"]] = record["transcript"], hashlib.sha256(sample["wav"]).hexdigest()
print(json.dumps(pairs))
"""


@pytest.mark.slow
def test_webdataset_reads_the_right_pairs(tone_catalog, shards):
    urls = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    # in a process of its own, because it leaves files open
    done = subprocess.run([sys.executable, "-c", WEBDATASET, *urls], capture_output=True, text=True, check=True)
    with Catalog(tone_catalog) as catalog:
        assert json.loads(done.stdout) == {
            u.utterance_id: [u.transcript, hashlib.sha256(Path(u.audio_path).read_bytes()).hexdigest()]
            for u in catalog.utterances(split="train")
        }


def test_segments_are_cut_out_and_whole_ones_kept(segments_db, tmp_path):
    written(segments_db, tmp_path)
    index = ShardIndex(tmp_path)
    with Catalog(segments_db) as catalog:
        pairs = [
            (before, after)
            for split in SPLITS
            for before, after in zip(catalog.utterances(split=split), index.utterances(split), strict=True)
        ]
    assert len(pairs) == 14
    for before, after in pairs:
        name = Path(before.audio_path).name
        expected = decode(
            before.audio_path, offset_seconds=before.offset_seconds, duration_seconds=before.duration_seconds
        ).samples
        received = decode(after.audio_path, duration_seconds=after.duration_seconds).samples
        assert replace(after, audio_path="", offset_seconds=0.0) == replace(before, audio_path="", offset_seconds=0.0)
        assert after.offset_seconds == 0.0
        assert len(received) == len(decode(after.audio_path).samples)  # nothing else is in the member
        if before.transcript.startswith("whole"):
            assert fetch([after.audio_path])[0] == Path(before.audio_path).read_bytes()
        if name != "long.mp3":
            np.testing.assert_array_equal(received, expected)
        else:  # 16 bits instead of floats
            np.testing.assert_allclose(received, expected, atol=2**-15)


def test_flac_is_16_khz_mono_throughout(segments_db, tmp_path):
    written(segments_db, tmp_path, audio="flac")
    index = ShardIndex(tmp_path)
    with Catalog(segments_db) as catalog:
        for split in SPLITS:
            for before, after in zip(catalog.utterances(split=split), index.utterances(split), strict=True):
                options = {"offset_seconds": before.offset_seconds, "duration_seconds": before.duration_seconds}
                expected = decode(before.audio_path, **options).samples
                clip = decode(after.audio_path, duration_seconds=after.duration_seconds)
                np.testing.assert_allclose(clip.samples, expected, atol=2**-15)
    with tarfile.open(next(tmp_path.rglob("*.tar"))) as tar:
        info = soundfile.info(tar.extractfile(tar.getmembers()[0]))
    assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")


def test_shards_can_be_made_of_shards(tone_catalog, shards, tmp_path):
    db = tmp_path / "again.db"
    assert prepare([shards], db, workers=0).version == ShardIndex(shards).version_id
    written(db, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(shards)


def test_bad_files_are_left_out_and_named_and_come_back(tone_corpus, tmp_path):
    import shutil

    corpus = shutil.copytree(tone_corpus, tmp_path / "corpus")
    prepare([corpus], tmp_path / "catalog.db", workers=0)
    gone, changed, empty = (corpus / "clips" / name for name in ("ann_0.wav", "bob_1.wav", "cyd_2.wav"))
    contents = {path: path.read_bytes() for path in (gone, changed, empty)}
    gone.unlink()
    changed.write_bytes(contents[changed][:-2] + b"\0\1")
    empty.write_bytes(b"")
    report = written(tmp_path / "catalog.db", tmp_path / "out")
    assert {(item.audio_path, item.reason) for item in report.left_out} == {
        (str(gone), "missing_file"),
        (str(changed), "unreadable"),
        (str(empty), "empty_audio"),
    }
    assert "changed since it was prepared" in next(i.detail for i in report.left_out if i.reason == "unreadable")
    assert ShardIndex(tmp_path / "out").manifest.left_out == 3
    assert sum(len(ShardIndex(tmp_path / "out").utterances(split)) for split in SPLITS) == 125 == report.utterances
    assert verify(tmp_path / "out", workers=0).mismatches == ()
    assert written(tmp_path / "catalog.db", tmp_path / "out").made == 0
    for path, content in contents.items():
        path.write_bytes(content)
    mended = written(tmp_path / "catalog.db", tmp_path / "out")
    assert (mended.left_out, mended.utterances) == ((), 128)
    assert 0 < mended.made <= 3
    written(tmp_path / "catalog.db", tmp_path / "other")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "other")


def test_when_nothing_can_be_read_there_is_no_manifest(tone_corpus, tmp_path):
    import shutil

    corpus = shutil.copytree(tone_corpus, tmp_path / "corpus")
    prepare([corpus], tmp_path / "catalog.db", workers=0)
    corpus.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"received 128 broken, such as\n.*missing_file"):
        written(tmp_path / "catalog.db", tmp_path / "out")
    with pytest.raises(DataError, match=r"expected shards with a manifest\.json"):
        ShardIndex(tmp_path / "out")
    (tmp_path / "moved").rename(corpus)
    assert written(tmp_path / "catalog.db", tmp_path / "out").utterances == 128


def test_a_folder_holds_one_plan(tone_catalog, segments_db, shards):
    before = files_of(shards)
    with pytest.raises(VersionError, match=r"expected shards of dataset version .*; received those of"):
        written(segments_db, shards)
    with pytest.raises(DataError, match=r"expected flac audio in .* received original"):
        written(tone_catalog, shards, audio="flac")
    with pytest.raises(DataError, match=r"of 0\.5 MB; received original in .* of 0\.3 MB"):
        written(tone_catalog, shards, shard_mb=0.5)
    assert files_of(shards) == before
    with pytest.raises(VersionError, match="expected shards of version 0123"):
        ShardIndex(shards).require("0123")
    ShardIndex(shards).require(ShardIndex(shards).version_id)


@pytest.mark.parametrize("options", [{"shard_mb": 0}, {"shard_mb": 9_000}, {"shard_mb": -1}, {"audio": "mp3"}])
def test_values_that_are_none(tone_catalog, tmp_path, options):
    with pytest.raises(ValueError, match="expected shard_mb"):
        written(tone_catalog, tmp_path, **options)


def test_a_place_that_cannot_be_written(tone_catalog, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Not a directory|File exists"):
        written(tone_catalog, tmp_path / "file")


def test_one_writer_at_a_time(tone_catalog, tmp_path):
    from myna.data.shards.store import Store

    with Store.at(tmp_path).writing(), pytest.raises(DataError, match="another process does"):
        written(tone_catalog, tmp_path)
    assert written(tone_catalog, tmp_path).made


@pytest.mark.slow
def test_processes_give_the_same_bytes_and_progress_counts_utterances(tone_catalog, shards, tmp_path):
    seen = []
    written(tone_catalog, tmp_path, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert files_of(tmp_path) == files_of(shards)
    assert seen[-1] == (128, 128)
    assert len(seen) == len(ShardIndex(shards).manifest.shards)


@pytest.mark.slow
def test_killed_at_any_moment_a_second_run_completes(tone_catalog, tmp_path):
    script = tmp_path / "write.py"
    script.write_text(
        "import sys\n"
        "from myna.data.shards.write import write_shards\n"
        "if __name__ == '__main__':\n"
        "    def wait(*counts): print(*counts, flush=True); sys.stdin.readline()\n"  # so that it cannot run ahead
        "    write_shards(sys.argv[1], sys.argv[2], shard_mb=0.05, workers=2, progress=wait)\n"
    )
    command = [sys.executable, script, tone_catalog, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kept = 0
    for lines in (1, 4):  # killed after so many shards
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, env=environment, text=True) as process:
            for _ in range(lines):
                assert process.stdout.readline()
                process.stdin.write("\n")
                process.stdin.flush()
            process.send_signal(signal.SIGKILL)
        kept = len(list((tmp_path / "out").rglob("*.done.json")))
        assert not (tmp_path / "out" / "manifest.json").exists()
    assert kept >= 4
    time.sleep(0.5)  # workers notice that their parent is gone
    (tmp_path / "out" / "train" / ".shard-000000.tar.77.partial").write_text("left by a killed process")
    report = written(tone_catalog, tmp_path / "out", shard_mb=0.05)
    assert report.made <= report.shards - kept
    written(tone_catalog, tmp_path / "undisturbed", shard_mb=0.05)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")
    assert list((tmp_path / "out").rglob("*.partial")) == []
