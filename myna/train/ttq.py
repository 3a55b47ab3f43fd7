"""Time to quality: which milestones a run has reached, when, and what chance the others have.

results/ttq_log.json of the run folder; error rates in percent, hours of training alone:

    milestones   each with `wer` or `cer`, its `budget_hours`, and `reached`: step, hours and whether in budget; or null
    history      an evaluation each: step, hours, wer, cer, and the `forecast` made after it; null before the third
    stopped      `milestone` or `hopeless` where that ended the run
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from myna.files import write_atomically
from myna.train.forecast import foresee

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from myna.sections import Milestone
    from myna.train.forecast import Futures

FIRST_FORECAST = 3  # evaluations
# A chance below it at two evaluations in a row, not before that part of the run. Of 81 curves, a milestone that was
# reached in the end was given up on 1 (on 9 at 5 % from the third evaluation on).
HOPELESS = 0.02
HOPELESS_FROM = 1 / 3
MAX_FUTURE_EVALUATIONS = 200
PACE_EVALUATIONS = 5  # the pace of a run is that between its last ones
INTERVAL = (0.1, 0.5, 0.9)  # 80 %, around what is expected


class TimeToQuality(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Keeps the learning curve by hours of training, tells what to expect of it, and may end the run.

    Hours and curve are in every checkpoint: a resumed run counts on from there, and time between runs counts nothing.

    Args:
        milestones: error rates to reach, each perhaps within a budget.
        stop_at: `never`; `milestone`, when all are reached; `hopeless`, when none of those left has a chance.
        evaluation_steps: optimizer steps from one evaluation to the next.
        path: ttq_log.json of the run.
        console: where people read it.
    """

    def __init__(
        self, milestones: Sequence[Milestone], stop_at: str, evaluation_steps: int, path: Path, console: Console
    ) -> None:
        self.milestones = list(milestones)
        self.stop_at = stop_at
        self.evaluation_steps = evaluation_steps
        self.path = path
        self.console = console
        self.history: list[dict[str, Any]] = []
        self.earlier_hours = 0.0  # of training, before this process
        self._begun: float | None = None

    @property
    def hours(self) -> float:
        """Spent on training, validation and checkpoints; the clock does not count a machine's sleep."""
        return self.earlier_hours + ((time.monotonic() - self._begun) / 3600 if self._begun is not None else 0.0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"earlier_hours": self.hours, "history": list(self.history)}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count from here; the log is that of the checkpoint."""
        self._begun = time.monotonic()
        if state.is_world_process_zero:
            self._write("")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Note the rates, tell the forecast, and end the run where it was asked for; all ranks together."""
        self._note(state.global_step, given["metrics"])
        stopped = ""
        if state.is_world_process_zero:
            self.history[-1]["forecast"] = self._forecast(state.max_steps)
            stopped = self._verdict(state.max_steps)
            self._write(stopped)
            self._tell(stopped)
        if args.world_size > 1:  # hours differ from rank to rank
            decision = torch.tensor(int(bool(stopped)), device=args.device)
            torch.distributed.broadcast(decision, src=0)
            stopped = stopped or ("by the first rank" if decision.item() else "")
        if stopped:
            control.should_training_stop = True
            control.should_save = True

    def _note(self, step: int, metrics: dict[str, float]) -> None:
        row = {"step": step, "hours": round(self.hours, 6), "forecast": None}
        row |= {name: round(100 * metrics[f"eval_{name}"], 4) for name in ("wer", "cer")}
        self.history = [earlier for earlier in self.history if earlier["step"] < step] + [row]

    def _forecast(self, last_step: int) -> dict[str, Any] | None:
        now = self.history[-1]
        if not self.milestones or len(self.history) < FIRST_FORECAST or now["step"] >= last_step:
            return None
        ahead = _steps_ahead(now["step"], self.evaluation_steps, last_step)
        steps = [row["step"] for row in self.history]
        futures = {}
        for metric in sorted({milestone.metric for milestone in self.milestones}):
            futures[metric] = foresee(steps, [row[metric] / 100 for row in self.history], ahead)
        final = {
            metric: dict(
                zip(("low", "expected", "high"), _rounded(100 * np.array(future.final(*INTERVAL))), strict=True)
            )
            for metric, future in futures.items()
        }
        outlooks = {
            str(milestone): self._outlook(milestone, futures[milestone.metric])
            for milestone in self.milestones
            if not _reached(milestone, self.history)
        }
        return {"final": final, "milestones": outlooks}

    def _outlook(self, milestone: Milestone, future: Futures) -> dict[str, float | None]:
        """Chance within budget and run, and hours of training until it is reached; null: not in this run."""
        now, earlier = self.history[-1], self.history[max(0, len(self.history) - 1 - PACE_EVALUATIONS)]
        pace = (now["hours"] - earlier["hours"]) / (now["step"] - earlier["step"])  # hours a step
        hours = now["hours"] + (future.first_steps(milestone.percent / 100) - now["step"]) * pace
        budget = milestone.budget_hours if milestone.budget_hours is not None else math.inf
        low, expected, high = _rounded(np.quantile(hours, INTERVAL, method="inverted_cdf"))
        chance = float((np.isfinite(hours) & (hours <= budget)).mean())
        return {"chance": chance, "hours_low": low, "hours": expected, "hours_high": high}

    def _verdict(self, last_step: int) -> str:
        left = [milestone for milestone in self.milestones if not _reached(milestone, self.history)]
        if self.stop_at == "milestone" and not left:
            return "milestone"
        if self.stop_at == "hopeless" and left and all(self._is_hopeless(milestone, last_step) for milestone in left):
            return "hopeless"
        return ""

    def _is_hopeless(self, milestone: Milestone, last_step: int) -> bool:
        if milestone.budget_hours is not None and self.history[-1]["hours"] > milestone.budget_hours:
            return True
        late = [row["forecast"] for row in self.history[-2:] if row["step"] >= HOPELESS_FROM * last_step]
        outlooks = [forecast["milestones"].get(str(milestone)) for forecast in late if forecast is not None]
        return len(outlooks) == 2 and all(one is not None and one["chance"] < HOPELESS for one in outlooks)

    def _write(self, stopped: str) -> None:
        log = {
            "milestones": [
                one.model_dump(exclude_none=True) | {"reached": _reached(one, self.history)} for one in self.milestones
            ],
            "history": self.history,
            "stopped": stopped or None,
        }
        write_atomically(self.path, json.dumps(log, indent=2))

    def _tell(self, stopped: str) -> None:
        forecast = self.history[-1]["forecast"]
        for milestone in self.milestones:
            reached = _reached(milestone, self.history)
            if reached is not None:
                late = "" if reached["in_budget"] else ", over budget"
                if reached["step"] == self.history[-1]["step"]:
                    self.console.print(f"{milestone}: reached after {_time(reached['hours'])}{late}.")
            elif forecast is not None:
                self.console.print(f"{milestone}: {_words(forecast['milestones'][str(milestone)])}.", soft_wrap=True)
        for metric, final in (forecast or {"final": {}})["final"].items():
            self.console.print(
                f"Best {metric.upper()} at the end: {final['expected']:.1f} % "
                f"(80 % interval: {final['low']:.1f} to {final['high']:.1f} %)."
            )
        if stopped == "milestone":
            self.console.print("All milestones are reached: the run ends here (training.stop_at=milestone).")
        if stopped == "hopeless":
            self.console.print(
                "No milestone that is left has a chance: the run ends here (training.stop_at=hopeless). "
                "To go on all the same: --resume with training.stop_at=never.",
                soft_wrap=True,
            )


def _reached(milestone: Milestone, history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first evaluation at or below the milestone."""
    for row in history:
        if row[milestone.metric] <= milestone.percent:
            in_budget = milestone.budget_hours is None or row["hours"] <= milestone.budget_hours
            return {"step": row["step"], "hours": row["hours"], "in_budget": in_budget}
    return None


def _steps_ahead(step: int, evaluation_steps: int, last_step: int) -> list[int]:
    """Of evaluations still to come; of a great many, some."""
    ahead = np.arange((step // evaluation_steps + 1) * evaluation_steps, last_step, evaluation_steps)
    ahead = np.append(ahead, last_step)
    chosen = np.linspace(0, len(ahead) - 1, min(len(ahead), MAX_FUTURE_EVALUATIONS)).round().astype(int)
    return [int(one) for one in ahead[chosen]]


def _rounded(values: Any) -> list[float | None]:
    """For JSON, which knows no infinity."""
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]


def _words(outlook: dict[str, float | None]) -> str:
    chance = f"{100 * (outlook['chance'] or 0):.0f} % likely"
    if outlook["hours_low"] is None:
        return f"{chance}; not expected in this run"
    low, expected, high = (_time(outlook[name]) for name in ("hours_low", "hours", "hours_high"))
    return f"{chance}; expected after {expected} (80 % interval: {low} to {high})"


def _time(hours: float | None) -> str:
    if hours is None:
        return "never in this run"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
