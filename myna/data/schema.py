"""The catalog's tables, and opening a file that holds them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from myna.errors import DataError

APPLICATION_ID = 0x4D594E41  # "MYNA"; tells our files from other SQLite databases
SCHEMA_VERSION = 1
LOCK_TIMEOUT_SECONDS = 60.0

SCHEMA = """
CREATE TABLE probes (            -- what is known of each clip that was ever looked at: a cache, safe to lose
    audio_path TEXT, segment TEXT, size_bytes INTEGER, mtime_ns INTEGER, judged_under TEXT, audio_sha256 TEXT,
    duration_seconds REAL, peak REAL, clipped_share REAL, is_finite INTEGER, failure TEXT, failure_detail TEXT,
    PRIMARY KEY (audio_path, segment)
) WITHOUT ROWID;
CREATE TABLE utterances (        -- shared by the versions that contain them
    number INTEGER PRIMARY KEY,
    content BLOB NOT NULL UNIQUE,  -- hash of all that makes it what it is: audio, segment, texts, speaker, language
    utterance_id TEXT NOT NULL, audio_path TEXT NOT NULL, audio_sha256 TEXT NOT NULL, audio_bytes INTEGER NOT NULL,
    transcript TEXT NOT NULL, text TEXT NOT NULL, duration_seconds REAL NOT NULL, offset_seconds REAL NOT NULL,
    speaker_id TEXT NOT NULL, language TEXT NOT NULL
);
CREATE TABLE versions (
    number INTEGER PRIMARY KEY,
    version_id TEXT NOT NULL UNIQUE,
    prepared INTEGER NOT NULL,     -- grows with every prepare; the highest is the newest
    created_at TEXT NOT NULL, num_utterances INTEGER NOT NULL, sources TEXT NOT NULL, settings TEXT NOT NULL,
    notes TEXT NOT NULL            -- JSON, these three
);
CREATE TABLE membership (
    version INTEGER REFERENCES versions, position INTEGER, utterance INTEGER NOT NULL REFERENCES utterances,
    split TEXT NOT NULL, PRIMARY KEY (version, position)
) WITHOUT ROWID;
CREATE TABLE refusals (
    version INTEGER REFERENCES versions, position INTEGER, audio_path TEXT NOT NULL, transcript TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (version, position)
) WITHOUT ROWID;
"""


def open_catalog(path: Path, create: bool) -> sqlite3.Connection:
    """A connection to a catalog of this schema, in autocommit mode.

    Raises:
        DataError: when the file is missing and not to be created, is no catalog, or is of a newer Myna.
    """
    if not create and not path.is_file():
        raise DataError(
            f"{path}: expected a catalog; there is no such file", "Make it with: myna prepare SOURCE --db ..."
        )
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        if create and path.exists() and not os.access(path, os.W_OK):
            raise DataError(f"{path}: expected a catalog to write to; received a file without write permission")
        connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None, timeout=LOCK_TIMEOUT_SECONDS)
        try:
            _check(connection, path, create)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{path}: expected a catalog that can be opened; received: {error}") from None
    return connection


def _uri(path: Path) -> str:
    """Where nothing may be written, not even a lock, the file is read as one that does not change."""
    uri = path.absolute().as_uri()
    is_fixed = path.is_file() and not (os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK))
    return f"{uri}?mode=ro&immutable=1" if is_fixed else uri


def _check(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise DataError(
            f"{path}: expected a catalog of schema {SCHEMA_VERSION}; received schema {version}, of a newer Myna",
            "Update Myna, or prepare the sources again into another file",
        )
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION_ID and not (create and is_empty):
        raise DataError(f"{path}: expected a catalog of Myna; received another SQLite database", "Give another --db")
    if application != APPLICATION_ID:
        connection.execute("PRAGMA journal_mode = WAL")  # readers go on while a new version is written
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
