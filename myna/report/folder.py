"""What a run folder holds, as far as it is there: what is missing or half-written is named, and never fatal."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from myna.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FILE_BYTES = 64 * 1024**2
MAX_LINE_BYTES = 1_000_000
KNOWN_FILES = ("config.yaml", "dataset.json", "plan.json", "metrics.jsonl", "result.json", "scores.json")
TIME_LOG = "results/ttq_log.json"


class RunFile(BaseModel):
    """A JSON file of a run, of which only the known fields are read; every one has a default."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RefusedRow(RunFile):
    """A recording that was set aside."""

    audio_path: str = ""
    reason: str = ""
    detail: str = ""


class DatasetFile(RunFile):
    """dataset.json."""

    dataset_version: str = ""
    refused: tuple[RefusedRow, ...] = ()


class PlannedDataset(RunFile):
    """What the plan knew of the training split."""

    utterances: int = 0
    total_hours: float = 0.0
    quantile_seconds: tuple[float, ...] = ()  # evenly spaced in rank


class PlannedModel(RunFile):
    """What the plan knew of the model."""

    parameters: int = 0
    trainable: int = 0


class PlannedHardware(RunFile):
    """What the plan was made for."""

    gpu_name: str | None = None
    gpu_count: int = 0
    cpu_name: str = ""
    cpu_cores: float = 0.0


class PlanFile(RunFile):
    """plan.json."""

    config: dict[str, Any] = {}
    step: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    dataset: PlannedDataset = PlannedDataset()
    model: PlannedModel = PlannedModel()
    hardware: PlannedHardware = PlannedHardware()


class ResultFile(RunFile):
    """result.json: how the run ended."""

    steps: int = 0
    stopped_early: bool = False
    best_step: int | None = None
    seconds: float = 0.0
    refused: int = 0
    broken_files: int = 0
    oom_splits: int = 0
    feed_wait_share: float | None = None
    utterances_per_second: float | None = None
    audio_seconds_per_second: float | None = None


class TimePoint(RunFile):
    """A validation, and the training time spent until then."""

    step: int = 0
    hours: float
    wer: float


class TimeLog(RunFile):
    """results/ttq_log.json: the way to the milestones."""

    history: tuple[TimePoint, ...] = ()
    milestones: tuple[dict[str, Any], ...] = ()


FileType = TypeVar("FileType", bound=RunFile)


@dataclass(slots=True)
class RunFolder:
    """A run as it lies on disk; what is missing is None or empty."""

    path: Path
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dataset: DatasetFile | None = None
    plan: PlanFile | None = None
    result: ResultFile | None = None
    time_log: TimeLog | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)  # lines of metrics.jsonl
    problems: list[str] = field(default_factory=list)  # files and lines that could not be read

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.path.resolve().name or str(self.path)

    def setting(self, section: str, key: str, default: Any = "") -> Any:
        """A value of config.yaml; `default` where the file, the section or the key is not there."""
        values = self.config.get(section)
        return values.get(key, default) if isinstance(values, dict) else default

    def curve(self, name: str) -> list[tuple[float, float]]:
        """A logged figure as (step, value), without what is not a finite number."""
        rows = ((row["step"], row.get(name)) for row in self.metrics)
        return [(float(step), float(value)) for step, value in rows if _is_number(value)]


def read_run(path: str | Path) -> RunFolder:
    """Everything of a run folder but its weights and scores.

    Raises:
        DataError: it is no folder, or nothing in it is of a run.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in KNOWN_FILES):
        raise DataError(
            f"{path}: expected a run folder, with one of {', '.join(KNOWN_FILES)}; there is none",
            "Give the folder that `myna train` printed, such as runs/run.",
        )
    run = RunFolder(path)
    run.config_text = _text(run, "config.yaml")
    run.config = _config(run)
    run.dataset = _parsed(run, "dataset.json", DatasetFile)
    run.plan = _parsed(run, "plan.json", PlanFile)
    run.result = _parsed(run, "result.json", ResultFile)
    run.time_log = _parsed(run, TIME_LOG, TimeLog)
    run.metrics = _metrics(run)
    return run


def parse(path: Path, kind: type[FileType]) -> FileType:
    """A JSON file of at most `MAX_FILE_BYTES`.

    Raises:
        DataError: it is larger, or not what it should be.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: expected at most {MAX_FILE_BYTES} bytes; received {path.stat().st_size}")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path}: expected what Myna writes there; in {place}: {first['msg']}") from None


def _parsed(run: RunFolder, name: str, kind: type[FileType]) -> FileType | None:
    path = run.path / name
    if not path.is_file():
        return None
    try:
        return parse(path, kind)
    except DataError as error:
        run.problems.append(str(error))
        return None


def _text(run: RunFolder, name: str) -> str:
    path = run.path / name
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(MAX_LINE_BYTES).decode(errors="replace")


def _config(run: RunFolder) -> dict[str, Any]:
    try:
        values = yaml.safe_load(run.config_text)
    except yaml.YAMLError as error:
        run.problems.append(f"{run.path / 'config.yaml'}: expected YAML; received {error}")
        return {}
    return values if isinstance(values, dict) else {}


def _metrics(run: RunFolder) -> list[dict[str, Any]]:
    """Lines with a step; of a run that is being written the last one may be half there."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return []
    rows, broken = [], []
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and _is_number(row.get("step")):
                rows.append(row)
            else:
                broken.append(number)
    if broken:
        run.problems.append(f"{path}: {_lines(broken)} could not be read")
    return rows


def _lines(numbers: Sequence[int]) -> str:
    return f"line {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} lines, the first of them line {numbers[0]},"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
