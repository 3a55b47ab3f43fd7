"""`myna report`: a run folder in, one page of HTML out; or two runs, compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.errors import DataError
from myna.files import write_atomically
from myna.report.alignment import aligned
from myna.report.compare import compare_runs
from myna.report.curves import compared_charts, duration_chart, learning_charts, speed_charts, time_chart
from myna.report.evaluation import MAX_SLICES, evaluation_of
from myna.report.facts import dataset_of, differences, facts, milestones, planned_values
from myna.report.folder import read_run
from myna.report.page import render
from myna.report.players import MAX_AUDIO_BYTES, Players
from myna.text import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.report.alignment import WordPair
    from myna.report.evaluation import Evaluation, WorstRow
    from myna.report.players import Player

REPORT_FILE = "report.html"
COMPARISON_FILE = "comparison.html"


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written."""

    path: Path
    size_bytes: int
    players: int
    problems: tuple[str, ...]  # what could not be read, as the page says too
    difference: dict[str, Any] | None = None  # of two runs: WER of the second less the first's, interval, p-value

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        players = f"{self.players} player{'s' if self.players != 1 else ''}"
        lines = [f"{self.path}: {self.size_bytes / 1e6:.2f} MB with {players}. It opens from disk, without a network."]
        return "\n".join([*lines, *(f"Not on the page: {problem}" for problem in self.problems)])


@dataclass(frozen=True, slots=True)
class WorstUtterance:
    """An utterance with many errors, to see and to hear."""

    row: WorstRow
    words: int  # of the normalised reference
    pairs: Sequence[WordPair]
    player: Player
    language: str


def write_report(
    run_folder: str | Path, out: str | Path = "", *, max_audio_bytes: int = MAX_AUDIO_BYTES
) -> ReportSummary:
    """A page about one run, with its newest evaluation.

    Args:
        run_folder: as `myna train` wrote it, finished or not.
        out: file to write; report.html in the run folder by default.
        max_audio_bytes: of all players together.

    Raises:
        DataError: it is no run folder, or `out` is a folder.
    """
    path = _target(out, Path(run_folder) / REPORT_FILE)
    run = read_run(run_folder)
    dataset, evaluation, players = dataset_of(run), evaluation_of(run), Players(max_audio_bytes)
    page = render(
        "run.html",
        run=run,
        facts=facts(run),
        dataset=dataset,
        plan=planned_values(run),
        learning=learning_charts(run),
        time_chart=time_chart(run),
        milestones=milestones(run),
        speed=speed_charts(run),
        durations=duration_chart(run, dataset, evaluation),
        evaluation=evaluation,
        max_slices=MAX_SLICES,
        worst=_worst(evaluation, players) if evaluation else [],
        players=players,
        written=_now(),
    )
    problems = [*run.problems, *([evaluation.problem] if evaluation and evaluation.problem else [])]
    return _written(page, path, players, problems)


def write_comparison(first: str | Path, second: str | Path, out: str | Path = "") -> ReportSummary:
    """A page about two runs, with the paired test of their newest evaluations.

    Args:
        first: run folder; differences are the second's less this one's.
        second: run folder.
        out: file to write; comparison.html in the second run's folder by default.

    Raises:
        DataError: one is no run folder, or `out` is a folder.
    """
    path = _target(out, Path(second) / COMPARISON_FILE)
    runs, players = (read_run(first), read_run(second)), Players()
    names = _told_apart(*(run.name for run in runs))
    comparison = compare_runs(*runs, players)
    problems = [problem for run in runs for problem in run.problems]
    page = render(
        "comparison.html",
        names=names,
        runs=runs,
        facts=[dict(facts(run)) for run in runs],
        differences=differences(*runs),
        charts=compared_charts(dict(zip(names, runs, strict=True))),
        comparison=comparison,
        problems=problems,
        players=players,
        written=_now(),
    )
    difference = asdict(comparison.difference) if comparison.difference else None
    problems += [comparison.problem] if comparison.problem else []
    return _written(page, path, players, problems, difference)


def _worst(evaluation: Evaluation, players: Players) -> list[WorstUtterance]:
    asked = str(evaluation.file.options.get("language", ""))
    found = []
    for row in evaluation.file.worst:
        language = evaluation.languages.get(row.utterance_id, "") or asked
        player = players.player(row.audio_path, row.offset_seconds, row.duration_seconds)
        words = len(normalize(row.reference, language).split())
        pairs = aligned(row.reference, row.hypothesis, language)
        found.append(WorstUtterance(row, words, pairs, player, language))
    return found


def _told_apart(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first != second else (f"{first} (first)", f"{second} (second)")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _target(out: str | Path, default: Path) -> Path:
    if out and Path(out).is_dir():
        raise DataError(
            f"--out {out}: expected a file to write; received a folder", f"Say --out {Path(out) / default.name}."
        )
    return Path(out or default)


def _written(
    page: str, path: Path, players: Players, problems: Sequence[str], difference: dict[str, Any] | None = None
) -> ReportSummary:
    write_atomically(path, page)
    return ReportSummary(path, path.stat().st_size, players.count, tuple(problems), difference)
