from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from tones import write_corpus

from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.errors import DataError, VersionError
from myna.samples import RefusalReason


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Path:
    """Two versions: one with all clips, one with only those over 1.2 s."""
    folder = tmp_path_factory.mktemp("catalog")
    corpus = write_corpus(folder / "corpus", clips_per_speaker=6)
    with (corpus / "metadata.csv").open("a") as file:
        file.write("clips/gone.wav,abc,train,ann,en\n,abc,train,ann,en\n")
    for limit in (0.5, 1.2):
        prepare([corpus], folder / "catalog.db", PrepareSettings(min_duration_seconds=limit), workers=0)
    return folder / "catalog.db"


def test_versions_are_found_by_the_beginning_of_their_id(db):
    with Catalog(db) as catalog:
        first, second = catalog.versions()
        assert catalog.version() == second
        assert catalog.version(first.version_id[:6]) == first
        assert first.num_utterances == 24 > second.num_utterances > 0
        assert first.settings["min_duration_seconds"] == 0.5
        assert first.sources == (str(db.parent / "corpus"),)


def test_a_missing_version_lists_what_there_is(db):
    with Catalog(db) as catalog:
        first, second = (version.version_id for version in catalog.versions())
        with pytest.raises(VersionError, match=f"starts with 'xyz'; received none .*{first}, {second}"):
            catalog.version("xyz")
        with pytest.raises(VersionError, match="myna prepare"):
            list(catalog.utterances("xyz"))
        with pytest.raises(VersionError, match="expected a split"):
            list(catalog.utterances(split="dev"))


def test_an_ambiguous_beginning_is_refused(db, tmp_path):
    copy = tmp_path / "copy.db"
    with sqlite3.connect(db) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    connection = sqlite3.connect(copy)
    connection.execute("UPDATE versions SET version_id = 'aaaa' || number || '00000000000'")
    connection.commit()
    connection.close()
    with Catalog(copy) as catalog, pytest.raises(VersionError, match="Give more digits"):
        catalog.version("aaaa")


def test_utterances_come_in_one_order_and_by_split(db):
    with Catalog(db) as catalog:
        first = catalog.versions()[0].version_id
        everything = list(catalog.utterances(first))
        assert [utterance.utterance_id for utterance in everything] == sorted(u.utterance_id for u in everything)
        assert len({utterance.utterance_id for utterance in everything}) == 24
        train = list(catalog.utterances(first, "train"))
        assert train == [utterance for utterance in everything if utterance.split == "train"]
        assert {utterance.speaker_id for utterance in train} == {"ann", "bob"}
        assert all(Path(utterance.audio_path).is_absolute() for utterance in train)


def test_refusals_belong_to_their_version(db):
    with Catalog(db) as catalog:
        first, second = catalog.versions()
        assert catalog.refusal_counts(first.version_id) == {RefusalReason.BAD_ROW: 1, RefusalReason.MISSING_FILE: 1}
        assert [refusal.reason for refusal in catalog.refusals(first.version_id)] == ["missing_file", "bad_row"]
        assert catalog.refusal_counts()[RefusalReason.TOO_SHORT] == 24 - second.num_utterances


def test_statistics_are_those_of_the_utterances(db):
    with Catalog(db) as catalog:
        first = catalog.versions()[0].version_id
        train = list(catalog.utterances(first, "train"))
        figures = catalog.statistics(first)
        assert list(figures) == ["train", "valid", "test"]
        seconds = sorted(utterance.duration_seconds for utterance in train)
        assert figures["train"].utterances == 12
        assert figures["train"].hours == pytest.approx(sum(seconds) / 3600)
        assert figures["train"].mean_seconds == pytest.approx(sum(seconds) / 12)
        assert (figures["train"].min_seconds, figures["train"].max_seconds) == (seconds[0], seconds[-1])
        assert seconds[-2] <= figures["train"].p95_seconds <= seconds[-1]
        assert figures["train"].speakers == 2
        assert figures["train"].words == sum(len(utterance.text.split()) for utterance in train)
        assert figures["train"].characters == sum(len(utterance.text.replace(" ", "")) for utterance in train)
        assert figures["train"].bytes == sum(Path(utterance.audio_path).stat().st_size for utterance in train)


def test_what_is_no_catalog_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        Catalog(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database, but long enough to be told from an empty file" * 20)
    with pytest.raises(DataError, match="not a database"):
        Catalog(tmp_path / "text.db")
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE versions (x)")
    connection.close()
    for create in (False, True):
        with pytest.raises(DataError, match="another SQLite database"):
            Catalog(tmp_path / "other.db", create)
    (tmp_path / "empty.db").touch()
    with pytest.raises(DataError, match="another SQLite database"):
        Catalog(tmp_path / "empty.db")


def test_a_newer_schema_is_refused(tmp_path):
    Catalog(tmp_path / "a.db", create=True).close()
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match=r"expected a catalog of schema 1; received schema 99.*Update Myna"):
        Catalog(tmp_path / "a.db", create=True)


def test_an_empty_catalog_says_how_to_fill_it(tmp_path):
    with Catalog(tmp_path / "a.db", create=True) as catalog, pytest.raises(VersionError, match="myna prepare"):
        catalog.version()


@pytest.mark.skipif(os.name == "nt", reason="folder permissions work differently")
def test_a_catalog_in_a_read_only_folder_can_be_read(db, tmp_path, monkeypatch):
    (tmp_path / "fixed").mkdir()
    copy = tmp_path / "fixed" / "catalog.db"
    copy.write_bytes(db.read_bytes())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with Catalog(copy) as catalog:
        assert len(catalog.versions()) == 2
    assert [entry.name for entry in copy.parent.iterdir()] == ["catalog.db"]
    with pytest.raises(DataError, match="write permission"):
        Catalog(copy, create=True)


def test_readers_see_the_old_state_while_a_version_is_written(db, tmp_path):
    copy = tmp_path / "catalog.db"
    with sqlite3.connect(db) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    connection = sqlite3.connect(copy)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    with Catalog(copy) as writer, Catalog(copy) as reader:
        with pytest.raises(RuntimeError, match="killed"), writer.transaction():
            writer.connection.execute("DELETE FROM versions")
            assert len(reader.versions()) == 2
            raise RuntimeError("killed")
        assert len(writer.versions()) == 2
