"""What watches a run: progress on the terminal, the log files, periodic checkpoints, a clean stop."""

from __future__ import annotations

import json
import math
import signal
import time
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers import TrainerCallback

from myna.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console
    from transformers import TrainerControl, TrainerState, TrainingArguments


# Of each training objective: what its validation is shown by, as heading: (logged name, factor).
SCORES = {
    "transcribe": {"WER %": ("eval_wer", 100.0), "CER %": ("eval_cer", 100.0)},
    "pretrain": {"masked right %": ("eval_masked_accuracy", 100.0), "codes in use": ("eval_codebook_perplexity", 1.0)},
}


class EpochEnds(TrainerCallback):  # type: ignore[misc]
    """Validates and saves with an epoch's last step rather than after it, and with the run's last step.

    So a checkpoint never comes before its own score: a run killed between the two would go on without it.

    Args:
        steps_per_epoch: optimizer steps.
        save_every_epochs: epochs between checkpoints; 0 saves none.
    """

    def __init__(self, steps_per_epoch: int, save_every_epochs: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.save_every_epochs = save_every_epochs

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for validation and a checkpoint where they are due."""
        epochs, steps = divmod(state.global_step, self.steps_per_epoch)
        is_last = state.global_step >= state.max_steps
        if steps and not is_last:
            return
        if args.eval_strategy == "epoch":
            control.should_evaluate = True
        if self.save_every_epochs and (is_last or epochs % self.save_every_epochs == 0):
            control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Nothing is left to do; the trainer also comes here when an epoch was broken off."""
        control.should_evaluate = control.should_save = False


class CleanStop(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A second one stops at once."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.requested = False
        self._earlier: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._earlier[number] = signal.signal(number, self._request)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Give the signals back."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop between two steps, where nothing is half done; all ranks after the same step."""
        if args.world_size > 1:  # the signal reaches ranks at different steps, perhaps only one of them
            requested = torch.tensor(int(self.requested), device=args.device)
            torch.distributed.all_reduce(requested, op=torch.distributed.ReduceOp.MAX)
            self.requested = bool(requested.item())
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            self.on_train_end()
            raise KeyboardInterrupt
        self.requested = True
        self.console.print("Stopping after this step; a checkpoint will be saved. Once more stops at once.")


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Appends every logged figure to `metrics.jsonl`, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop lines that an interrupted run wrote after the checkpoint this one goes on from."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
        write_atomically(self.path, "".join(kept))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero:
            # JSON has no infinity, which is what fp16's first gradient norms are.
            logs = {name: value if math.isfinite(value) else None for name, value in given["logs"].items()}
            line = json.dumps({"step": state.global_step, "time": round(time.time(), 3), **logs}, allow_nan=False)
            with self.path.open("a") as file:
                file.write(line + "\n")


class ConsoleProgress(TrainerCallback):  # type: ignore[misc]
    """A progress bar on a terminal, plain lines elsewhere, and one summary row per evaluation."""

    def __init__(self, console: Console, scores: Mapping[str, tuple[str, float]]) -> None:
        """Show on `console`; of an evaluation, the scores by heading as in `SCORES`."""
        self.console = console
        self.scores = scores
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.started = time.monotonic()
        self.losses: list[float] = []  # logged since the last evaluation
        self.learning_rate = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the bar, and the headings of the summary rows."""
        self.started = time.monotonic()
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, loss="-")
            self.console.print(self._row(self._headings(), "bold"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if state.is_world_process_zero:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Remember the training loss for the next summary row."""
        logs = given["logs"]
        if state.is_world_process_zero and "loss" in logs:
            self.losses.append(logs["loss"])
            self.learning_rate = logs["learning_rate"]
            self.progress.update(self.task, loss=f"{logs['loss']:.3f}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Print the epoch's summary row."""
        if not state.is_world_process_zero:
            return
        metrics = given["metrics"]
        train_loss = f"{sum(self.losses) / len(self.losses):.3f}" if self.losses else "-"
        row = (
            f"{state.epoch or 0:.2f}",
            str(state.global_step),
            train_loss,
            f"{metrics['eval_loss']:.3f}",
            *(f"{scale * metrics[name]:.1f}" for name, scale in self.scores.values()),
            f"{self.learning_rate:.2e}",
            f"{(time.monotonic() - self.started) / 60:.1f}",
        )
        self.console.print(self._row(row, ""))
        self.losses.clear()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        self.progress.stop()

    def _headings(self) -> tuple[str, ...]:
        return ("epoch", "step", "train loss", "valid loss", *self.scores, "learning rate", "minutes")

    @staticmethod
    def _row(cells: tuple[str, ...], style: str) -> Table:
        row = Table(show_header=False, box=None, padding=(0, 1))
        for _ in cells:
            row.add_column(justify="right", width=13)
        row.add_row(*cells, style=style)
        return row
