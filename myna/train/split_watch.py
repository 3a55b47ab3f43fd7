"""Batches that were cut because memory ran out: told once, logged, noted in the plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from myna.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from myna.models.memory_limit import MemoryLimit

OOM_SPLITS = "oom_splits"


class SplitWatch(TrainerCallback):  # type: ignore[misc]
    """Adds `oom_splits` to every logged line once there are any. It must come before what writes the metrics.

    Args:
        limit: what the run learns about memory.
        plan_path: plan.json of the run, where there is one; `oom_splits` of it is filled in.
        console: where people read it.
    """

    def __init__(self, limit: MemoryLimit, plan_path: Path, console: Console) -> None:
        self.limit = limit
        self.plan_path = plan_path
        self.console = console
        self.noted = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """What a resumed run knows has been told."""
        self.noted = self.limit.splits

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell and note what the step brought."""
        if self.limit.splits == self.noted or not state.is_world_process_zero:
            return
        if not self.noted:
            most = f"; the most that has fitted is {self.limit.largest}" if self.limit.largest else ""
            self.console.print(
                f"Memory ran out in step {state.global_step}: a micro-batch was cut in halves and done again, and what "
                f"does not fit will be from now on{most}. Optimizer steps stay what they were.",
                soft_wrap=True,
            )
        self.noted = self.limit.splits
        if self.plan_path.is_file():
            plan = json.loads(self.plan_path.read_text(encoding="utf-8"))
            plan[OOM_SPLITS] = self.limit.state()
            write_atomically(self.plan_path, json.dumps(plan, ensure_ascii=False, indent=2))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the count so far, of all ranks."""
        if self.limit.splits:
            given["logs"][OOM_SPLITS] = self.limit.splits
