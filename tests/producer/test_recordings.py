"""Where a producer looks for recordings, and what it says when they are not there."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from tiny_runs import version_of

from myna.data.catalog import Catalog
from myna.data.shards.write import write_shards
from myna.errors import ConfigError, FeedError, VersionError
from myna.producer.recordings import DataPath, check_recordings, parse_audio_root


def test_paths_are_mapped_to_what_they_are_called_here():
    data = DataPath("catalog.db", audio_root=(("/data/clips", "/mnt/clips"), ("/data", "/elsewhere/")))
    assert data.here("/data/clips/a.wav") == "/mnt/clips/a.wav"
    assert data.here("/data/clips2/a.wav") == "/elsewhere/clips2/a.wav"
    assert data.here("/other/a.wav") == "/other/a.wav"
    assert data.here("/data/clips/a.tar#512+99") == "/mnt/clips/a.tar#512+99"


def test_a_catalog_or_shards_and_not_both():
    for wrong in ({}, {"db": "catalog.db", "shards": "shards"}):
        with pytest.raises(ConfigError, match="expected --db CATALOG or --shards FOLDER"):
            DataPath(**wrong)


def test_all_mistakes_of_audio_root_are_told():
    assert parse_audio_root(["/a=/b", "/c=/d=e"]) == (("/a", "/b"), ("/c", "/d=e"))
    with pytest.raises(ConfigError) as caught:
        parse_audio_root(["/a", "=/b", "/a=/b"])
    assert len(caught.value.mistakes) == 2


def test_a_version_that_the_catalog_lacks_says_what_to_copy(tone_catalog):
    with pytest.raises(VersionError, match=r"expected dataset version 0123.*Copy the trainer's catalog here"):
        DataPath(str(tone_catalog)).utterances("0123456789abcdef", ["train"])


def test_shards_give_the_catalogs_utterances_with_other_addresses(tone_catalog, tmp_path):
    version = version_of(tone_catalog)
    write_shards(tone_catalog, tmp_path / "shards", workers=0)
    found = DataPath(shards=str(tmp_path / "shards")).utterances(version, ["train", "valid"])
    assert all("#" in utterance.audio_path for utterance in found)
    with Catalog(tone_catalog) as catalog:
        expected = [u for split in ("train", "valid") for u in catalog.utterances(version, split=split)]
    assert [replace(u, audio_path="") for u in found] == [replace(u, audio_path="") for u in expected]
    check_recordings(found)
    with pytest.raises(VersionError, match="expected shards of version 0123"):
        DataPath(shards=str(tmp_path / "shards")).utterances("0123456789abcdef", ["train"])


def test_recordings_that_are_elsewhere_are_refused_and_a_few_broken_ones_are_not(tone_catalog, tone_corpus, tmp_path):
    version = version_of(tone_catalog)
    copy = shutil.copytree(tone_corpus, tmp_path / "copy")
    data = DataPath(str(tone_catalog), audio_root=((str(tone_corpus.resolve()), str(copy)),))
    found = data.utterances(version, ["train"])
    assert all(utterance.audio_path.startswith(str(copy)) for utterance in found)
    check_recordings(found)
    (copy / "clips" / "ann_0.wav").unlink()
    check_recordings(found)
    shutil.rmtree(copy)
    with pytest.raises(FeedError, match=r"64 of 64 looked at are missing.*--audio-root"):
        check_recordings(found)
