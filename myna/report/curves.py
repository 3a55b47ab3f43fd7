"""The charts of a report: curves of what runs logged, and how long their utterances are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.report.charts import Line, histogram, line_chart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from myna.report.charts import Chart
    from myna.report.evaluation import Evaluation
    from myna.report.facts import Dataset
    from myna.report.folder import RunFolder

PER_CENT = 100.0


def learning_charts(run: RunFolder) -> list[Chart]:
    """Loss, and what validation gave."""
    loss = [Line("training", run.curve("loss")), Line("validation", run.curve("eval_loss"))]
    rates = [Line("WER", _scaled(run, "eval_wer")), Line("CER", _scaled(run, "eval_cer"))]
    masked = [Line("right", _scaled(run, "eval_masked_accuracy"))]
    charts = (
        line_chart("Loss", loss, "step", ""),
        line_chart("Error rates on the validation split", rates, "step", "%"),
        line_chart("Masked frames told right on the validation split", masked, "step", "%"),
    )
    return [chart for chart in charts if chart is not None]


def time_chart(run: RunFolder) -> Chart | None:
    """WER over the hours of training, as the time log has it."""
    history = run.time_log.history if run.time_log else ()
    points = [(point.hours, PER_CENT * point.wer) for point in history]
    return line_chart("WER over training time", [Line("WER", points)], "hours", "%")


def speed_charts(run: RunFolder) -> list[Chart]:
    """How fast the run took batches, and how long it waited for them."""
    pace = [Line("audio", run.curve("audio_seconds_per_second"))]
    waited = [Line("waiting", _scaled(run, "feed_wait_share"))]
    charts = (
        line_chart("Seconds of audio a second", pace, "step", "s/s"),
        line_chart("Time the trainer waited for batches", waited, "step", "% of the time"),
    )
    return [chart for chart in charts if chart is not None]


def duration_chart(run: RunFolder, dataset: Dataset | None, evaluation: Evaluation | None) -> Chart | None:
    """Lengths of what was trained on and of what was scored; of training, the plan's quantiles without a catalog."""
    groups: dict[str, list[float]] = {}
    if dataset is not None:
        groups["training"] = list(dataset.training_seconds)
    elif run.plan is not None:
        groups["training"] = list(run.plan.dataset.quantile_seconds)
    if evaluation is not None:
        groups[f"scored ({evaluation.file.split})"] = list(evaluation.durations_seconds)
    return histogram("Lengths of utterances", groups, "seconds")


def compared_charts(runs: Mapping[str, RunFolder]) -> list[Chart]:
    """The validation of several runs over each other."""
    losses = [Line(name, run.curve("eval_loss")) for name, run in runs.items()]
    rates = [Line(name, _scaled(run, "eval_wer")) for name, run in runs.items()]
    charts = (
        line_chart("Loss on the validation split", losses, "step", ""),
        line_chart("WER on the validation split", rates, "step", "%"),
    )
    return [chart for chart in charts if chart is not None]


def _scaled(run: RunFolder, name: str) -> list[tuple[float, float]]:
    return [(step, PER_CENT * value) for step, value in run.curve(name)]
