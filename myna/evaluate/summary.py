"""An evaluation for people to read: a few tables on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from myna.evaluate.run import EvaluationReport

NUM_ROWS = 10  # of a table that could be long; scores.json has the rest


def render(report: EvaluationReport) -> RenderableType:
    """Scores, error shares, slices, confusions and what was left out."""
    parts: list[RenderableType] = [_heading(report), _scores(report.scores), _intervals(report), _kinds(report.scores)]
    for kind, table in report.slices.items():
        if len(table) > 1:
            parts.append(_slices(kind, table))
    parts.append(_confusions(report.scores["confusions"]))
    parts.append(_notes(report))
    return Group(*parts)


def _heading(report: EvaluationReport) -> Text:
    return Text(
        f"{report.model} on {report.split} of {report.evaluated_on}"
        + (f" (trained on {report.trained_on})" if report.trained_on else "")
        + f": {report.scores['utterances']} utterances, {report.audio_seconds / 60:.1f} min of audio\n"
        f"real-time factor {report.real_time_factor:.3f} decoding, "
        f"{report.total_real_time_factor:.3f} with reading and scoring",
    )


def _scores(scores: dict[str, Any]) -> Table:
    table = Table(title="Scores")
    table.add_column("")
    for name in ("WER %", "CER %", "accuracy %", "BLEU", "chrF", "words"):
        table.add_column(name, justify="right")
    for form, label in (("normalized", "normalised"), ("raw", "raw")):
        figures = scores[form]
        rates = [f"{100 * figures[name]:.2f}" for name in ("wer", "cer", "accuracy")]
        overlaps = [f"{figures[name]:.1f}" for name in ("bleu", "chrf")]
        table.add_row(label, *rates, *overlaps, str(figures["words"]["reference"]))
    return table


def _intervals(report: EvaluationReport) -> Text:
    wer, cer = (
        f"{name} {100 * interval.low:.1f} to {100 * interval.high:.1f} %"
        for name, interval in (("WER", report.wer_interval), ("CER", report.cer_interval))
    )
    drawn = f"{report.wer_interval.units:,} {report.wer_interval.unit}s"
    return Text(f"95 % intervals, normalised, drawn by {drawn}: {wer}; {cer}")


def _kinds(scores: dict[str, Any]) -> Table:
    words = scores["normalized"]["words"]
    table = Table(title="Word errors, normalised")
    for name in ("substitutions", "deletions", "insertions"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{words[name]} ({share:.0%})" for name, share in words["shares"].items()))
    return table


def _slices(kind: str, slices: dict[str, dict[str, Any]]) -> Table:
    shown = dict(list(slices.items())[:NUM_ROWS])
    more = f", {NUM_ROWS} of {len(slices)}" if len(slices) > NUM_ROWS else ""
    table = Table(title=f"By {kind}{more}")
    table.add_column(kind)
    for name in ("utterances", "words", "WER %", "CER %"):
        table.add_column(name, justify="right")
    for key, figures in shown.items():
        counts = [str(figures["utterances"]), str(figures["words"])]
        table.add_row(Text(key), *counts, *(f"{100 * figures[name]:.2f}" for name in ("wer", "cer")))
    return table


def _confusions(confusions: dict[str, Any]) -> Table:
    table = Table(title="Most frequent word errors, normalised")
    for name in ("said", "heard", "times"):
        table.add_column(name, justify="right" if name == "times" else "left")
    rows = [(row["reference"], row["hypothesis"], row["count"]) for row in confusions["substitutions"]]
    rows += [(row["word"], "", row["count"]) for row in confusions["deletions"]]
    rows += [("", row["word"], row["count"]) for row in confusions["insertions"]]
    for said, heard, count in sorted(rows, key=lambda row: -row[2])[:NUM_ROWS]:
        table.add_row(Text(said), Text(heard), str(count))
    return table


def _notes(report: EvaluationReport) -> Text:
    lines = [f"set aside: {r.audio_path}: {r.reason}: {r.detail}" for r in report.refused[:NUM_ROWS]]
    if len(report.refused) > NUM_ROWS:
        lines.append(f"... and {len(report.refused) - NUM_ROWS} more files")
    if report.seen_in_training:
        lines.append(
            f"{report.seen_in_training} of these utterances were in the model's training data: "
            "the scores are better than the model is."
        )
    if report.scores_path:
        lines.append(f"All figures: {report.scores_path}")
    return Text("\n".join(lines))
