"""The newest evaluation of a run: its scores, and what the lines of its utterances add to them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from myna.errors import DataError
from myna.evaluate.errors import UNKNOWN, duration_bin
from myna.evaluate.hypotheses import read_hypotheses
from myna.evaluate.run import SCORES_FILE, hypotheses_path
from myna.intervals import rate_interval
from myna.metrics import count_errors
from myna.report.folder import RefusedRow, RunFile, parse
from myna.text import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from myna.evaluate.hypotheses import Hypothesis
    from myna.intervals import Interval
    from myna.report.folder import RunFolder

MAX_SLICES = 20  # shown of a kind

SCORES = ("WER, normalised", "CER, normalised", "WER, raw", "CER, raw")
SLICE_OF: dict[str, Callable[[Hypothesis], str]] = {
    "speaker": lambda line: line.speaker_id or UNKNOWN,
    "duration": lambda line: duration_bin(line.duration_seconds),
    "language": lambda line: line.language or UNKNOWN,
}


class Counts(RunFile):
    """Edits of words or characters."""

    substitutions: int
    deletions: int
    insertions: int
    reference: int


class Rates(RunFile):
    """Scores of raw or normalised text."""

    wer: float
    cer: float
    accuracy: float
    bleu: float
    chrf: float
    words: Counts
    characters: Counts


class Confusion(RunFile):
    """A frequent error; a pair of words, or one word that was left out or put in."""

    reference: str = ""
    hypothesis: str = ""
    word: str = ""
    count: int


class Confusions(RunFile):
    """The most frequent word errors of each kind."""

    complete: bool = True
    substitutions: tuple[Confusion, ...] = ()
    deletions: tuple[Confusion, ...] = ()
    insertions: tuple[Confusion, ...] = ()


class Totals(RunFile):
    """Scores of the whole split."""

    utterances: int
    raw: Rates
    normalized: Rates
    confusions: Confusions = Confusions()


class SliceRow(RunFile):
    """Scores of utterances that have something in common."""

    utterances: int
    words: int
    audio_seconds: float
    wer: float
    cer: float


class WorstRow(RunFile):
    """An utterance with many errors."""

    utterance_id: str
    audio_path: str
    offset_seconds: float
    duration_seconds: float
    speaker_id: str
    wer: float
    errors: int
    reference: str
    hypothesis: str


class ScoresFile(RunFile):
    """scores.json."""

    model: str
    trained_on: str
    evaluated_on: str
    split: str
    options: dict[str, Any] = Field(default_factory=dict)
    scores: Totals
    slices: dict[str, dict[str, SliceRow]] = Field(default_factory=dict)
    worst: tuple[WorstRow, ...] = ()
    audio_seconds: float
    real_time_factor: float
    seen_in_training: int = 0
    refused: tuple[RefusedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """An error rate and how sure it is."""

    name: str
    counts: Counts
    rate: float
    interval: Interval | None  # None without the lines of the utterances


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a report says of a scored model."""

    path: Path  # of scores.json
    file: ScoresFile
    scores: tuple[Score, ...]  # WER and CER, normalised and raw; the normalised WER first
    slice_intervals: dict[str, dict[str, Interval]]  # of the normalised WER, by kind and slice
    durations_seconds: Sequence[float]  # of the scored utterances
    languages: dict[str, str]  # of the worst utterances, by ID
    problem: str  # why there are no intervals, "" where there are


class _Lines:
    """What intervals are made from: counts of every utterance, without its texts.

    Args:
        worst: IDs of the utterances whose language is kept.
    """

    def __init__(self, worst: set[str]) -> None:
        self.counts = {name: (array("q"), array("q")) for name in SCORES}  # errors and lengths, (N,) each
        self.durations_seconds = array("d")
        self.speakers: list[str] = []
        self.slices: dict[str, list[str]] = {kind: [] for kind in SLICE_OF}
        self.languages: dict[str, str] = {}
        self._worst = worst

    def add(self, line: Hypothesis) -> None:
        """Count an utterance; its line holds the normalised counts, the raw ones are made of its texts."""
        reference, hypothesis = tidy(line.reference), tidy(line.hypothesis)
        raw_words = count_errors(reference.split(), hypothesis.split())
        raw_characters = count_errors(reference, hypothesis)
        counted = (
            (line.word_errors, line.words),
            (line.character_errors, line.characters),
            (raw_words.errors, raw_words.reference_length),
            (raw_characters.errors, raw_characters.reference_length),
        )
        for (errors, lengths), (error, length) in zip(self.counts.values(), counted, strict=True):
            errors.append(error)
            lengths.append(length)
        self.durations_seconds.append(line.duration_seconds)
        self.speakers.append(line.speaker_id)
        for kind, slice_of in SLICE_OF.items():
            self.slices[kind].append(slice_of(line))
        if line.utterance_id in self._worst:
            self.languages[line.utterance_id] = line.language

    def interval(self, name: str) -> Interval:
        """Of one of SCORES."""
        errors, lengths = self.counts[name]
        return rate_interval(errors, lengths, self.speakers)

    def slice_intervals(self, kind: str, keys: Sequence[str]) -> dict[str, Interval]:
        """Of the normalised WER."""
        errors, words = (np.asarray(values) for values in self.counts[SCORES[0]])
        speakers, owners = np.asarray(self.speakers), np.asarray(self.slices[kind])
        return {
            key: rate_interval(errors[owners == key], words[owners == key], speakers[owners == key].tolist())
            for key in keys
        }


def evaluation_of(run: RunFolder) -> Evaluation | None:
    """The newest evaluation in a run's folder or one of its checkpoints.

    That is the scores.json, or NAME.json with its hypotheses beside it, that was written last. None where there is
    none, or where it cannot be read, which the run's problems then name.
    """
    files = [path for pattern in ("*.json", "*/*.json") for path in run.path.glob(pattern)]
    scored = [path for path in files if path.name == SCORES_FILE or hypotheses_path(path).is_file()]
    if not scored:
        return None
    try:
        return read_evaluation(max(scored, key=lambda path: path.stat().st_mtime))
    except DataError as error:
        run.problems.append(str(error))
        return None


def read_evaluation(path: Path) -> Evaluation:
    """Scores with intervals.

    Raises:
        DataError: it is not what `myna evaluate` writes.
    """
    file = parse(path, ScoresFile)
    lines, problem = _lines(path, file)
    normalized, raw = file.scores.normalized, file.scores.raw
    counted = (
        (normalized.words, normalized.wer),
        (normalized.characters, normalized.cer),
        (raw.words, raw.wer),
        (raw.characters, raw.cer),
    )
    scores = tuple(
        Score(name, counts, rate, lines.interval(name) if lines else None)
        for name, (counts, rate) in zip(SCORES, counted, strict=True)
    )
    shown = {kind: list(rows)[:MAX_SLICES] for kind, rows in file.slices.items() if kind in SLICE_OF}
    return Evaluation(
        path,
        file,
        scores,
        {kind: lines.slice_intervals(kind, keys) for kind, keys in shown.items()} if lines else {},
        lines.durations_seconds if lines else (),
        lines.languages if lines else {},
        problem,
    )


def _lines(path: Path, file: ScoresFile) -> tuple[_Lines | None, str]:
    """The lines that the scores were made of, or why they are not used."""
    lines = _Lines({row.utterance_id for row in file.worst})
    try:
        for line in read_hypotheses(hypotheses_path(path)):
            lines.add(line)
    except (DataError, TypeError, OverflowError) as error:  # the latter two: values that are no counts or texts
        return None, str(error)
    errors, words = lines.counts[SCORES[0]]
    counted = file.scores.normalized.words
    expected = counted.substitutions + counted.deletions + counted.insertions, counted.reference
    if (sum(errors), sum(words)) != expected:
        return None, (
            f"{hypotheses_path(path)}: expected {expected[0]} errors in {expected[1]} words, as in {path.name}; "
            f"received {sum(errors)} in {sum(words)}. Score the model again with `myna evaluate`."
        )
    return lines, ""
