"""What was trained on what, and how it went, in words: the tables of a report that hold no scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from myna.data.catalog import Catalog
from myna.errors import MynaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from myna.data.catalog import DatasetVersion, SplitStatistics
    from myna.report.folder import RunFolder

Fact = tuple[str, str]  # label, value


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the catalog says of the version that a run is bound to."""

    version: DatasetVersion
    splits: Mapping[str, SplitStatistics]
    training_seconds: Sequence[float]  # of every utterance of the training split


@dataclass(frozen=True, slots=True)
class PlannedValue:
    """A value of the plan and why it is this one."""

    name: str
    value: str
    reason: str


def facts(run: RunFolder) -> list[Fact]:
    """The run at a glance; what is not known is left out."""
    found = [
        ("Model", _model(run)),
        ("Dataset version", run.dataset.dataset_version if run.dataset else ""),
        ("Training", _training(run)),
        ("Machine", _machine(run)),
        ("Ended", _ended(run)),
        ("Speed", _speed(run)),
        ("Set aside", _set_aside(run)),
    ]
    return [(label, value) for label, value in found if value]


def dataset_of(run: RunFolder) -> Dataset | None:
    """The run's dataset version, where its catalog can still be opened; else the run's problems say why not."""
    db, version = str(run.setting("data", "db")), run.dataset.dataset_version if run.dataset else ""
    if not db or not version or run.setting("data", "shards"):
        return None
    try:
        with Catalog(db) as catalog:
            seconds = [utterance.duration_seconds for utterance in catalog.utterances(version, "train")]
            return Dataset(catalog.version(version), catalog.statistics(version), seconds)
    except MynaError as error:
        run.problems.append(str(error))
        return None


def planned_values(run: RunFolder) -> list[PlannedValue]:
    """Every value of plan.json with its reason."""
    if run.plan is None:
        return []
    values = {**run.plan.config, **run.plan.step}
    return [PlannedValue(name, shown(value), run.plan.reasons.get(name, "")) for name, value in values.items()]


def milestones(run: RunFolder) -> list[dict[str, str]]:
    """The milestones of the time log, with whatever is known of each; "" where it is not."""
    rows = [flat(row) for row in (run.time_log.milestones if run.time_log else ())]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name.replace("_", " ").replace(".", " "): shown(row.get(name, "")) for name in names} for row in rows]


def differences(first: RunFolder, second: RunFolder) -> list[tuple[str, str, str]]:
    """Settings that two runs do not share: name and both values."""
    values, others = flat(first.config), flat(second.config)
    names = sorted(values.keys() | others.keys())
    absent = "not there"
    return [
        (name, shown(values.get(name, absent)), shown(others.get(name, absent)))
        for name in names
        if values.get(name, absent) != others.get(name, absent)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def shown(value: object) -> str:
    """A value as a person reads it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "none"
    return str(value)


def _model(run: RunFolder) -> str:
    parts = [str(run.setting("model", "family"))]
    if run.setting("model", "pretrained"):
        parts.append(f"from {run.setting('model', 'pretrained')}")
    if run.setting("adapter", "kind", "none") != "none":
        parts.append(f"{run.setting('adapter', 'kind')} of rank {run.setting('adapter', 'rank')}")
    if run.setting("distillation", "teacher"):
        parts.append(f"taught by {run.setting('distillation', 'teacher')}")
    if run.plan is not None and run.plan.model.parameters:
        model = run.plan.model
        parts.append(f"{model.parameters / 1e6:.1f} M parameters, {model.trainable / 1e6:.1f} M of them trained")
    return ", ".join(part for part in parts if part)


def _training(run: RunFolder) -> str:
    labels = {
        "objective": "objective",
        "num_train_epochs": "epochs",
        "max_steps": "at most steps",
        "learning_rate": "learning rate",
        "effective_batch_size": "effective batch",
        "seed": "seed",
    }
    values = {label: run.setting("training", key, None) for key, label in labels.items()}
    return ", ".join(f"{label} {shown(value)}" for label, value in values.items() if value not in (None, -1))


def _machine(run: RunFolder) -> str:
    if run.plan is None:
        return ""
    hardware = run.plan.hardware
    cards = f"{hardware.gpu_count} x {hardware.gpu_name}, " if hardware.gpu_count else ""
    return f"{cards}{hardware.cpu_cores:g} cores {hardware.cpu_name}".strip()


def _ended(run: RunFolder) -> str:
    result = run.result
    if result is None:
        return f"not yet, or it was broken off; last seen at step {run.metrics[-1]['step']}" if run.metrics else ""
    how = "stopped before its end" if result.stopped_early else "as planned"
    best = f"; best at step {result.best_step}" if result.best_step is not None else ""
    return f"{how}, after {result.steps:,} steps in {result.seconds / 60:.1f} minutes{best}"


def _speed(run: RunFolder) -> str:
    result = run.result
    if result is None or result.audio_seconds_per_second is None or result.utterances_per_second is None:
        return ""
    pace = (
        f"{result.audio_seconds_per_second:.1f} s of audio and {result.utterances_per_second:.1f} utterances a second"
    )
    if result.feed_wait_share is None:
        return pace
    return f"{pace}; the trainer waited for batches {result.feed_wait_share:.1%} of the time"


def _set_aside(run: RunFolder) -> str:
    parts = []
    if run.dataset is not None and run.dataset.refused:
        counts = Counter(row.reason for row in run.dataset.refused)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        number = len(run.dataset.refused)
        parts.append(f"{number} utterance{'s' * (number > 1)} ({reasons})")
    if run.result is not None and run.result.broken_files:
        parts.append(f"{run.result.broken_files} files broke during the run")
    if run.result is not None and run.result.oom_splits:
        parts.append(f"{run.result.oom_splits} micro-batches were cut for memory")
    return "; ".join(parts)
