"""A producer's work is the trainer's, byte for byte, or it is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from tiny_runs import tiny_work

from myna.data.shards.write import write_shards
from myna.errors import FeedError
from myna.feed.payload import to_bytes
from myna.feed.spec import FeedSpec
from myna.feed.work import TrainingBatches
from myna.producer.rebuild import rebuild, shard_numbers
from myna.producer.recordings import DataPath


def same_bytes(one: TrainingBatches, other: TrainingBatches) -> bool:
    numbers = range(0, 2 * one.per_epoch, 5)
    return [to_bytes(one.make(number)) for number in numbers] == [to_bytes(other.make(number)) for number in numbers]


def test_files_elsewhere_and_shards_give_the_trainers_bytes(tone_catalog, tone_corpus, tmp_path):
    work, spec = tiny_work(tone_catalog)
    told = FeedSpec.from_bytes(spec.to_bytes())
    copy = shutil.copytree(tone_corpus, tmp_path / "copy")
    moved = DataPath(str(tone_catalog), audio_root=((str(tone_corpus.resolve()), str(copy)),))
    assert same_bytes(rebuild(told, moved), work)
    write_shards(tone_catalog, tmp_path / "shards", workers=0)
    assert same_bytes(rebuild(told, DataPath(shards=str(tmp_path / "shards"))), work)


def test_a_plan_by_shards_is_the_same_wherever_they_lie_and_needs_them(tone_catalog, tmp_path):
    write_shards(tone_catalog, tmp_path / "shards", shard_mb=1, workers=0)
    shards = DataPath(shards=str(tmp_path / "shards"))
    work, spec = tiny_work(tone_catalog, shards=shards)
    spec = replace(spec, by_shard=True)
    elsewhere = DataPath(shards=str(shutil.copytree(tmp_path / "shards", tmp_path / "elsewhere")))
    assert len(set(shard_numbers(work.utterances, shards))) > 1
    assert same_bytes(rebuild(spec, elsewhere), work)
    with pytest.raises(FeedError, match=r"expected shards.*--shards FOLDER"):
        rebuild(spec, DataPath(str(tone_catalog)))


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"step_seconds": 8.0}, {"parts": 1}, {"augment": []}, {"splits": ("valid",)}]
)
def test_work_that_differs_in_anything_is_refused(tone_catalog, changes):
    _, spec = tiny_work(tone_catalog)
    with pytest.raises(FeedError, match=r"expected work with fingerprint .*; received .*copy the trainer's catalog"):
        rebuild(replace(spec, **changes), DataPath(str(tone_catalog)))


def test_recordings_that_shards_have_changed_are_refused(tone_catalog, tmp_path):
    _, spec = tiny_work(tone_catalog)
    write_shards(tone_catalog, tmp_path / "shards", audio="flac", workers=0)
    with pytest.raises(FeedError, match=r"expected original recordings.*received flac ones"):
        rebuild(spec, DataPath(shards=str(tmp_path / "shards")))


def test_other_libraries_are_refused(tone_catalog):
    _, spec = tiny_work(tone_catalog)
    with pytest.raises(FeedError, match=r"expected the trainer's libraries: numpy 1\.0 \(here"):
        rebuild(replace(spec, versions=spec.versions | {"numpy": "1.0"}), DataPath(str(tone_catalog)))


def test_augmentation_of_another_myna_is_refused(tone_catalog):
    _, spec = tiny_work(tone_catalog)
    with pytest.raises(FeedError, match=r"augmentation.*same version of Myna"):
        rebuild(replace(spec, augment=[{"type": "hum", "probability": 1.0}]), DataPath(str(tone_catalog)))


def test_folders_of_the_augmentation_may_lie_elsewhere_too(tone_catalog, tone_corpus, tmp_path):
    noises = shutil.copytree(tone_corpus / "clips", tmp_path / "noises")
    _, spec = tiny_work(tone_catalog, f"augment=[{{type: background, folder: {noises}, probability: 1.0}}]")
    shutil.move(noises, tmp_path / "moved")
    moved = DataPath(str(tone_catalog), audio_root=((str(noises), str(tmp_path / "moved")),))
    assert rebuild(spec, moved).fingerprint() == spec.fingerprint
    (tmp_path / "moved" / "ann_0.wav").unlink()
    with pytest.raises(FeedError, match="expected work with fingerprint"):
        rebuild(spec, DataPath(str(tone_catalog), audio_root=((str(noises), str(tmp_path / "moved")),)))
