"""Every scored utterance as a line of hypotheses.jsonl: what intervals and comparisons of runs are made from."""

from __future__ import annotations

import contextlib
import json
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from myna.errors import DataError
from myna.files import staged_file
from myna.intervals import Difference, Interval, compare, rate_interval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from myna.metrics import Scores
    from myna.samples import Utterance

HYPOTHESES_FILE = "hypotheses.jsonl"
MAX_LINE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was heard in an utterance; words and characters are of normalised text."""

    utterance_id: str
    audio_path: str
    offset_seconds: float
    duration_seconds: float
    speaker_id: str
    language: str
    reference: str
    hypothesis: str
    words: int
    word_errors: int
    characters: int
    character_errors: int

    @classmethod
    def of(cls, utterance: Utterance, hypothesis: str, scores: Scores) -> Hypothesis:
        """The line of an utterance."""
        return cls(
            utterance.utterance_id,
            utterance.audio_path,
            utterance.offset_seconds,
            utterance.duration_seconds,
            utterance.speaker_id,
            utterance.language,
            utterance.transcript,
            hypothesis,
            scores.normalized_words.reference_length,
            scores.normalized_words.errors,
            scores.normalized_characters.reference_length,
            scores.normalized_characters.errors,
        )


class Hypotheses:
    """Collects lines as they come: texts go to the file, of each utterance only counts stay in memory."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file
        self._speakers: list[str] = []
        self._counts = {name: array("q") for name in ("words", "word_errors", "characters", "character_errors")}

    def add(self, line: Hypothesis) -> None:
        """Count an utterance, and write it where there is a file."""
        self._speakers.append(line.speaker_id)
        for name, values in self._counts.items():
            values.append(getattr(line, name))
        if self._file is not None:
            self._file.write(json.dumps(asdict(line), ensure_ascii=False).encode() + b"\n")

    def word_interval(self) -> Interval:
        """Where the WER lies with 95 % confidence."""
        return rate_interval(self._counts["word_errors"], self._counts["words"], self._speakers)

    def character_interval(self) -> Interval:
        """Where the CER lies with 95 % confidence."""
        return rate_interval(self._counts["character_errors"], self._counts["characters"], self._speakers)


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[Hypotheses]:
    """Hypotheses whose file appears when the block ends well; without a path they are only counted."""
    if path is None:
        yield Hypotheses()
        return
    with staged_file(path) as file:
        yield Hypotheses(file)


def read_hypotheses(path: str | Path) -> Iterator[Hypothesis]:
    """The lines of a hypotheses.jsonl, or of the one in a folder.

    Raises:
        DataError: there is none, or it is not one.
    """
    path = Path(path) / HYPOTHESES_FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: expected {HYPOTHESES_FILE} of a scored model; there is none",
            "Score the model with `myna evaluate MODEL --out FOLDER`, then give that folder.",
        )
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            try:
                yield Hypothesis(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: expected a scored utterance as JSON; received {error}",
                    "Score the model again with `myna evaluate`.",
                ) from error


def compare_scored(first: str | Path, second: str | Path) -> Difference:
    """The second model's WER less the first's, on the utterances that both were scored on.

    Args:
        first: hypotheses.jsonl, or the folder that holds it.
        second: likewise.

    Raises:
        DataError: they were not scored on the same utterances.
    """
    lines = {line.utterance_id: line for line in read_hypotheses(first)}
    others = {line.utterance_id: line for line in read_hypotheses(second)}
    if lines.keys() != others.keys():
        raise DataError(
            f"{first} and {second}: expected scores of the same utterances; "
            f"{len(lines.keys() & others.keys())} are in both, {len(lines.keys() ^ others.keys())} in one alone",
            "Score both models on the same split of the same dataset version.",
        )
    names = list(lines)
    return compare(
        [lines[name].word_errors for name in names],
        [others[name].word_errors for name in names],
        [lines[name].words for name in names],
        [lines[name].speaker_id for name in names],
    )
