"""Two runs side by side: what was set otherwise, and whether their scores differ by more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from myna.errors import DataError
from myna.evaluate.hypotheses import compare_scored, read_hypotheses
from myna.evaluate.run import hypotheses_path
from myna.report.alignment import aligned
from myna.report.evaluation import evaluation_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from myna.evaluate.hypotheses import Hypothesis
    from myna.intervals import Difference
    from myna.report.alignment import WordPair
    from myna.report.evaluation import Evaluation
    from myna.report.folder import RunFolder
    from myna.report.players import Player, Players

MAX_CHANGED = 15  # utterances shown that became better, and as many that became worse


@dataclass(frozen=True, slots=True)
class ChangedUtterance:
    """An utterance on which the second run makes more or fewer errors than the first."""

    line: Hypothesis  # of the first run
    errors: tuple[int, int]
    pairs: tuple[Sequence[WordPair], Sequence[WordPair]]
    player: Player


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two evaluations say of each other."""

    evaluations: tuple[Evaluation | None, Evaluation | None]
    difference: Difference | None = None  # the second's WER less the first's
    words: int = 0  # that it is over
    better: tuple[ChangedUtterance, ...] = ()  # under the second run; those that gain most first
    worse: tuple[ChangedUtterance, ...] = ()
    problem: str = ""  # why there is no difference, "" where there is


def compare_runs(first: RunFolder, second: RunFolder, players: Players) -> Comparison:
    """The newest evaluations of two runs, in pairs of utterances; where they have no pairs, the reason."""
    evaluations = evaluation_of(first), evaluation_of(second)
    try:
        paths = [_hypotheses(run, found) for run, found in zip((first, second), evaluations, strict=True)]
        difference = compare_scored(*paths)
        lines = {line.utterance_id: line for line in read_hypotheses(paths[0])}
        pairs = [(lines[other.utterance_id], other) for other in read_hypotheses(paths[1])]
    except DataError as error:
        return Comparison(evaluations, problem=str(error))
    better, worse = (_most_changed(pairs, sign, players) for sign in (-1, 1))
    return Comparison(evaluations, difference, sum(line.words for line in lines.values()), better, worse)


def _hypotheses(run: RunFolder, evaluation: Evaluation | None) -> Path:
    if evaluation is None:
        raise DataError(f"{run.path}: expected an evaluation; there is none", "Make one with `myna evaluate`.")
    if evaluation.problem:
        raise DataError(evaluation.problem)
    return hypotheses_path(evaluation.path)


def _most_changed(
    pairs: Sequence[tuple[Hypothesis, Hypothesis]], sign: int, players: Players
) -> tuple[ChangedUtterance, ...]:
    """Those whose errors changed most in one direction; of equal ones the order is that of their IDs."""
    changed = [pair for pair in pairs if sign * (pair[1].word_errors - pair[0].word_errors) > 0]
    changed.sort(key=lambda pair: (-abs(pair[1].word_errors - pair[0].word_errors), pair[0].utterance_id))
    return tuple(
        ChangedUtterance(
            line,
            (line.word_errors, other.word_errors),
            (
                aligned(line.reference, line.hypothesis, line.language),
                aligned(line.reference, other.hypothesis, line.language),
            ),
            players.player(line.audio_path, line.offset_seconds, line.duration_seconds),
        )
        for line, other in changed[:MAX_CHANGED]
    )
