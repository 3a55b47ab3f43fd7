"""Time of the first steps against the plan's, and from both how long the run will take."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from myna.files import write_atomically
from myna.plan.speed import WARM_UP_STEPS, Calibration

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from myna.plan.speed import SpeedPrediction

MEASURED_STEPS = 20  # after the warm-up


class SpeedWatch(TrainerCallback):  # type: ignore[misc]
    """Measures the first steps, waits for the feed included, tells how long the run will take and notes it in the plan.

    Args:
        predicted: the plan's.
        plan_path: plan.json of the run; its `calibration` is filled in.
        console: where people read it.
    """

    def __init__(self, predicted: SpeedPrediction, plan_path: Path, console: Console) -> None:
        self.predicted = predicted
        self.plan_path = plan_path
        self.console = console
        self.step_seconds: list[float] = []
        self._last = 0.0  # where the step that runs began

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count from here."""
        self._last = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A step ends where the next one begins."""
        if len(self.step_seconds) == WARM_UP_STEPS + MEASURED_STEPS:
            return
        now = time.perf_counter()
        self.step_seconds.append(now - self._last)
        self._last = now
        if len(self.step_seconds) == WARM_UP_STEPS + MEASURED_STEPS and state.is_world_process_zero:
            self._tell(state.max_steps)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """After validation the clock starts anew."""
        self._last = time.perf_counter()

    def on_save(self, *_: Any, **__: Any) -> None:
        """After a checkpoint likewise."""
        self._last = time.perf_counter()

    def _tell(self, max_steps: int) -> None:
        predicted = self.predicted.step_seconds
        calibration = Calibration.of(self.step_seconds, [predicted] * len(self.step_seconds))
        if calibration is None:
            return
        measured = predicted * calibration.factor
        hours = measured * max_steps / 3600
        self.console.print(
            f"Measured over {calibration.steps} steps: {measured:.2f} s a step, planned were {predicted:.2f} s. "
            f"All {max_steps} steps take {60 * hours:.0f} minutes, validation not counted."
        )
        plan = json.loads(self.plan_path.read_text(encoding="utf-8"))
        plan["calibration"] = asdict(calibration) | {"step_seconds": measured, "hours": hours}
        write_atomically(self.plan_path, json.dumps(plan, ensure_ascii=False, indent=2))
