"""The catalog: immutable dataset versions in one SQLite file, and the questions one asks of them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.data.schema import open_catalog
from myna.errors import DataError, VersionError
from myna.samples import SPLITS, Refusal, RefusalReason, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A dataset that never changes; its ID is a hash of its content."""

    version_id: str  # 16 hex digits
    created_at: str  # ISO 8601, UTC
    num_utterances: int
    sources: tuple[str, ...]  # as given when it was first prepared
    settings: dict[str, Any]
    notes: tuple[str, ...]  # what was decided about its splits


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Figures of one split."""

    utterances: int
    hours: float
    mean_seconds: float
    min_seconds: float
    max_seconds: float
    p95_seconds: float
    speakers: int  # known ones
    words: int  # of the normalised text
    characters: int  # likewise, without spaces
    bytes: int  # of the distinct audio files


class Catalog:
    """One catalog file, open.

    Args:
        path: the SQLite file.
        create: make it when there is none.

    Raises:
        DataError: when it is missing, is no catalog, or is of a newer Myna.
    """

    def __init__(self, path: str | Path, create: bool = False) -> None:
        self.path = Path(path)
        self.connection = open_catalog(self.path, create)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise DataError(f"{self.path}: the catalog cannot be read or written: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's changes, or none."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def versions(self) -> list[DatasetVersion]:
        """All versions, the one prepared last at the end."""
        rows = self.connection.execute(
            "SELECT version_id, created_at, num_utterances, sources, settings, notes FROM versions ORDER BY prepared"
        ).fetchall()
        return [
            DatasetVersion(
                version_id,
                created_at,
                count,
                tuple(json.loads(sources)),
                json.loads(settings),
                tuple(json.loads(notes)),
            )
            for version_id, created_at, count, sources, settings, notes in rows
        ]

    def version(self, prefix: str = "") -> DatasetVersion:
        """The version whose ID starts with `prefix`; the one prepared last for "".

        Raises:
            VersionError: when there is none, or more than one.
        """
        versions = self.versions()
        matching = [version for version in versions if version.version_id.startswith(prefix)]
        if len(matching) == 1 or (matching and not prefix):
            return matching[-1]
        listed = ", ".join(version.version_id for version in versions[-20:]) or "none"
        problem = f"{len(matching)} that do" if matching else "none that does"
        raise VersionError(
            f"{self.path}: expected a dataset version that starts with {prefix!r}; received {problem} of {listed}",
            "Give more digits of the ID" if matching else "Make a version with: myna prepare",
        )

    def utterances(self, version_id: str = "", split: str | None = None) -> Iterator[Utterance]:
        """A version's utterances in the order of their IDs: the same order for the same content, wherever it lies.

        Args:
            version_id: the ID or its beginning, "" for the newest.
            split: one of SPLITS, None for all.

        Raises:
            VersionError: when there is no such version.
        """
        if split is not None and split not in SPLITS:
            raise VersionError(f"expected a split of {', '.join(SPLITS)}; received {split!r}")
        rows = self.connection.execute(
            "SELECT u.utterance_id, u.audio_path, u.transcript, u.text, u.duration_seconds, m.split, u.speaker_id, "
            "u.language, u.offset_seconds FROM membership m JOIN utterances u ON u.number = m.utterance "
            "WHERE m.version = ? AND (? IS NULL OR m.split = ?) ORDER BY m.position",
            (self._number(version_id), split, split),
        )
        return (Utterance(*row) for row in rows)

    def refusals(self, version_id: str = "") -> Iterator[Refusal]:
        """What was set aside when the version was last prepared, in the order of the sources."""
        rows = self.connection.execute(
            "SELECT audio_path, transcript, reason, detail FROM refusals WHERE version = ? ORDER BY position",
            (self._number(version_id),),
        )
        return (Refusal(path, text, RefusalReason(reason), detail) for path, text, reason, detail in rows)

    def refusal_counts(self, version_id: str = "") -> dict[RefusalReason, int]:
        """Refusals by reason, most frequent first."""
        rows = self.connection.execute(
            "SELECT reason, count(*) FROM refusals WHERE version = ? GROUP BY reason ORDER BY count(*) DESC, reason",
            (self._number(version_id),),
        )
        return {RefusalReason(reason): count for reason, count in rows}

    def statistics(self, version_id: str = "") -> dict[str, SplitStatistics]:
        """Figures of each split that the version has, in the order of SPLITS."""
        number = self._number(version_id)
        figures = {split: self._split_statistics(number, split) for split in SPLITS}
        return {split: figure for split, figure in figures.items() if figure is not None}

    def _split_statistics(self, number: int, split: str) -> SplitStatistics | None:
        members = "FROM membership m JOIN utterances u ON u.number = m.utterance WHERE m.version = ? AND m.split = ?"
        of_split = (number, split)
        rows = self.connection.execute(f"SELECT u.duration_seconds {members}", of_split)
        seconds = np.fromiter((row[0] for row in rows), dtype=np.float64)  # (utterances,)
        if not len(seconds):
            return None
        # normalised texts are never empty and part words by one space
        speakers, with_spaces, characters = self.connection.execute(
            "SELECT count(DISTINCT nullif(u.speaker_id, '')), sum(length(u.text)), "
            f"sum(length(replace(u.text, ' ', ''))) {members}",
            of_split,
        ).fetchone()
        (audio_bytes,) = self.connection.execute(
            f"SELECT sum(audio_bytes) FROM (SELECT DISTINCT u.audio_sha256, u.audio_bytes {members})", of_split
        ).fetchone()
        return SplitStatistics(
            utterances=len(seconds),
            hours=float(seconds.sum()) / 3600,
            mean_seconds=float(seconds.mean()),
            min_seconds=float(seconds.min()),
            max_seconds=float(seconds.max()),
            p95_seconds=float(np.percentile(seconds, 95)),
            speakers=speakers,
            words=with_spaces - characters + len(seconds),
            characters=characters,
            bytes=audio_bytes,
        )

    def _number(self, version_id: str) -> int:
        found = self.version(version_id).version_id
        row = self.connection.execute("SELECT number FROM versions WHERE version_id = ?", (found,)).fetchone()
        return int(row[0])
