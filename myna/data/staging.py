"""A dataset version in the making: temporary tables, so that memory stays flat and a kill leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from myna.data.clips import ClipRequest, Probe, look_at, segment_key
from myna.samples import Recording, Refusal, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from myna.data.catalog import Catalog
    from myna.data.checks import Finding

BATCH_ROWS = 2000

TABLES = """
CREATE TEMP TABLE rows (
    position INTEGER PRIMARY KEY, audio_path TEXT, segment TEXT, offset_seconds REAL, claimed_seconds REAL,
    transcript TEXT, split TEXT, speaker_id TEXT, language TEXT
);
CREATE TEMP TABLE candidates (
    position INTEGER PRIMARY KEY, content BLOB, utterance_id TEXT, audio_path TEXT, audio_sha256 TEXT, segment TEXT,
    audio_bytes INTEGER, transcript TEXT, text TEXT, duration_seconds REAL, offset_seconds REAL, split TEXT,
    speaker_id TEXT, language TEXT
);
CREATE TEMP TABLE refused (position INTEGER PRIMARY KEY, audio_path TEXT, transcript TEXT, reason TEXT, detail TEXT);
"""
# A recording that is in two splits stays in the one that scores are taken from, so that no test set is lost to train.
DUPLICATES = """
SELECT position, first_path FROM (
    SELECT position, row_number() OVER content AS place, first_value(audio_path) OVER content AS first_path
    FROM candidates WINDOW content AS (
        PARTITION BY audio_sha256, segment
        ORDER BY CASE split WHEN 'test' THEN 0 WHEN 'valid' THEN 1 WHEN 'train' THEN 2 ELSE 3 END,
                 transcript = '', transcript, speaker_id, language, position
    )
) WHERE place > 1
"""

UTTERANCE_COLUMNS = (
    "content, utterance_id, audio_path, audio_sha256, audio_bytes, transcript, text, duration_seconds, "
    "offset_seconds, speaker_id, language"
)


class StagedRow(NamedTuple):
    """A row of a source with what is known of its clip."""

    position: int
    audio_path: str
    segment: str
    offset_seconds: float | None
    claimed_seconds: float | None
    transcript: str
    split: str
    speaker_id: str
    language: str


class Staging:
    """The rows of one `prepare` on their way from sources to a version."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._connection = catalog.connection
        self._connection.executescript(TABLES)
        self._position = 0

    def add(self, rows: Iterable[Recording | Refusal]) -> Iterator[int]:
        """Take in the rows of a source; yields how many rows there are, now and then."""
        rows = iter(rows)
        while batch := list(islice(rows, BATCH_ROWS)):
            recordings, refusals = [], []
            for position, row in enumerate(batch, self._position):
                if isinstance(row, Refusal):
                    refusals.append((position, row.audio_path, row.transcript, row.reason.value, row.detail))
                else:
                    recordings.append(_staged(position, row))
            self._insert("rows", recordings)
            self._insert("refused", refusals)
            self._position += len(batch)
            yield self._position

    def clips(self) -> Iterator[ClipRequest]:
        """Each distinct clip of the rows, as it lies on disk now; those of one file come together."""
        clips = self._connection.execute(
            "SELECT DISTINCT audio_path, offset_seconds, CASE WHEN offset_seconds IS NULL THEN NULL "
            "ELSE claimed_seconds END FROM temp.rows ORDER BY audio_path"
        )
        return (look_at(*clip) for clip in clips)

    def num_clips(self) -> int:
        """How many distinct clips there are."""
        return self._one("SELECT count(*) FROM (SELECT DISTINCT audio_path, segment FROM temp.rows)")

    def remembered(self, request: ClipRequest, judged_under: str) -> bool:
        """Whether the catalog knows the clip from an earlier run and the file has not changed since."""
        found = self._connection.execute(
            "SELECT failure, judged_under FROM probes WHERE audio_path = ? AND segment = ? AND size_bytes = ? "
            "AND mtime_ns = ?",
            (request.audio_path, request.segment, request.size_bytes, request.mtime_ns),
        ).fetchall()
        return request.size_bytes >= 0 and any(not failure or under == judged_under for failure, under in found)

    def remember(self, probes: Sequence[Probe]) -> None:
        """Keep what was found out, at once and for later runs."""
        marks = ", ".join("?" * len(Probe._fields))
        with self._catalog.transaction():
            self._connection.executemany(f"INSERT OR REPLACE INTO probes VALUES ({marks})", probes)

    def probed_rows(self) -> Iterator[tuple[StagedRow, Probe]]:
        """Every row with what is known of its clip, in the order of the sources."""
        width = len(StagedRow._fields)
        joined = self._connection.execute(
            "SELECT r.*, p.* FROM temp.rows r JOIN probes p ON p.audio_path = r.audio_path AND p.segment = r.segment "
            "ORDER BY r.position"
        )
        return ((StagedRow(*row[:width]), Probe(*row[width:])) for row in joined)

    def judge(self, verdicts: Iterable[tuple[StagedRow, Probe, str, Finding | None]]) -> None:
        """Sort rows into candidates and refusals: (row, probe, normalised text, what is wrong if anything)."""
        verdicts = iter(verdicts)
        while batch := list(islice(verdicts, BATCH_ROWS)):
            self._insert("candidates", [_candidate(row, probe, text) for row, probe, text, found in batch if not found])
            refusals = [
                (row.position, row.audio_path, row.transcript, found[0].value, found[1])
                for row, _, _, found in batch
                if found
            ]
            self._insert("refused", refusals)

    def num_unlabelled(self) -> int:
        """How many candidates have no transcript."""
        return self._one("SELECT count(*) FROM candidates WHERE transcript = ''")

    def duplicates(self) -> Iterator[tuple[int, str]]:
        """(position, path of the one that stays) of each candidate whose audio is there already."""
        return iter(self._connection.execute(DUPLICATES).fetchall())

    def candidates(self) -> Iterator[tuple[int, Utterance]]:
        """(position, utterance), in the order of utterance IDs."""
        rows = self._connection.execute(
            "SELECT position, utterance_id, audio_path, transcript, text, duration_seconds, split, speaker_id, "
            "language, offset_seconds FROM candidates ORDER BY utterance_id, position"
        )
        return ((row[0], Utterance(*row[1:])) for row in rows)

    def refuse(self, findings: Iterable[tuple[int, Finding]]) -> None:
        """Turn candidates into refusals."""
        refusals = [(reason.value, detail, position) for position, (reason, detail) in findings]
        with self._catalog.transaction():
            self._connection.executemany(
                "INSERT INTO refused SELECT position, audio_path, transcript, ?, ? FROM candidates WHERE position = ?",
                refusals,
            )
            self._connection.executemany(
                "DELETE FROM candidates WHERE position = ?", [(position,) for *_, position in refusals]
            )

    def set_splits(self, split_of: dict[str, str]) -> None:
        """Give candidates their split by utterance ID."""
        self._connection.execute("CREATE INDEX temp.by_id ON candidates (utterance_id)")
        with self._catalog.transaction():
            self._connection.executemany(
                "UPDATE candidates SET split = ? WHERE utterance_id = ?",
                ((split, utterance_id) for utterance_id, split in split_of.items()),
            )

    def counts(self, of: str) -> dict[str, int]:
        """Candidates by split, or refusals by reason: most frequent first."""
        table = {"split": "candidates", "reason": "refused"}[of]
        rows = self._connection.execute(
            f"SELECT {of}, count(*) FROM temp.{table} GROUP BY {of} ORDER BY count(*) DESC, {of}"
        )
        return dict(rows.fetchall())

    def refusals(self, at_most: int) -> list[Refusal]:
        """The first refusals."""
        rows = self._connection.execute(
            "SELECT audio_path, transcript, reason, detail FROM refused ORDER BY position LIMIT ?", (at_most,)
        )
        return [Refusal(*row) for row in rows]

    def publish(self, sources: Sequence[str], settings: dict[str, Any], notes: Sequence[str]) -> tuple[str, bool]:
        """Write the version in one transaction; (its ID, whether it is new).

        A version that is there already keeps its content. Its files' places and its refusals become those of this run.
        """
        version_id = self._version_id()
        execute = self._connection.execute
        with self._catalog.transaction():
            execute(
                f"INSERT INTO utterances ({UTTERANCE_COLUMNS}) SELECT {UTTERANCE_COLUMNS} FROM candidates "
                "WHERE true ORDER BY utterance_id ON CONFLICT (content) DO UPDATE "
                "SET audio_path = excluded.audio_path WHERE audio_path <> excluded.audio_path"
            )
            is_new = not execute("SELECT 1 FROM versions WHERE version_id = ?", (version_id,)).fetchall()
            prepared = self._one("SELECT coalesce(max(prepared), 0) + 1 FROM versions")
            if is_new:
                self._insert_version(version_id, prepared, sources, settings, notes)
            execute("UPDATE versions SET prepared = ? WHERE version_id = ?", (prepared, version_id))
            number = self._one("SELECT number FROM versions WHERE version_id = ?", version_id)
            execute("DELETE FROM refusals WHERE version = ?", (number,))
            execute(
                "INSERT INTO refusals SELECT ?, row_number() OVER (ORDER BY position), audio_path, transcript, reason, "
                "detail FROM refused",
                (number,),
            )
        return version_id, is_new

    def _insert_version(
        self, version_id: str, prepared: int, sources: Sequence[str], settings: dict[str, Any], notes: Sequence[str]
    ) -> None:
        count = self._one("SELECT count(*) FROM candidates")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        texts = [json.dumps(value, ensure_ascii=False) for value in (list(sources), settings, list(notes))]
        number = self._connection.execute(
            "INSERT INTO versions (version_id, prepared, created_at, num_utterances, sources, settings, notes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (version_id, prepared, now, count, *texts),
        ).lastrowid
        self._connection.execute(
            "INSERT INTO membership SELECT ?, row_number() OVER (ORDER BY c.utterance_id), u.number, c.split "
            "FROM candidates c JOIN utterances u ON u.content = c.content",
            (number,),
        )

    def _version_id(self) -> str:
        """Hash over the sorted content of all utterances with their splits: the same wherever the data lies."""
        digest = hashlib.sha256()
        for content, split in self._connection.execute("SELECT content, split FROM candidates ORDER BY content"):
            digest.update(content + split.encode() + b"\n")
        return digest.hexdigest()[:16]

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._connection.execute("BEGIN")
            self._connection.executemany(f"INSERT INTO temp.{table} VALUES ({marks})", rows)
            self._connection.execute("COMMIT")

    def _one(self, query: str, *values: object) -> int:
        return int(self._connection.execute(query, values).fetchone()[0])


def _staged(position: int, recording: Recording) -> StagedRow:
    return StagedRow(
        position,
        str(recording.audio_path),
        segment_key(recording.offset_seconds, recording.duration_seconds),
        recording.offset_seconds,
        recording.duration_seconds,
        recording.transcript,
        recording.split,
        recording.speaker_id,
        recording.language,
    )


def _candidate(row: StagedRow, probe: Probe, text: str) -> tuple[object, ...]:
    return (
        row.position,
        _digest(probe.audio_sha256, row.segment, row.transcript, text, row.speaker_id, row.language),
        utterance_id(probe.audio_sha256, row.segment, row.transcript),
        row.audio_path,
        probe.audio_sha256,
        row.segment,
        probe.size_bytes,
        row.transcript,
        text,
        probe.duration_seconds,
        row.offset_seconds or 0.0,
        row.split,
        row.speaker_id,
        row.language,
    )


def utterance_id(audio_sha256: str, segment: str, transcript: str) -> str:
    """A hash of the recording's bytes, the segment ("" is all of it) and the transcript: 16 hex digits."""
    return _digest(audio_sha256, segment, transcript)[:8].hex()


def _digest(*values: str) -> bytes:
    return hashlib.sha256(json.dumps(values).encode()).digest()[:16]
