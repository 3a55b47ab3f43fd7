"""Watches memory during a run: logs it with the metrics, cleans up when it runs short, says what to change."""

from __future__ import annotations

import gc
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback

from myna.errors import ConfigError
from myna.machine import usable_memory

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

GIB = 2**30
STEPS_BETWEEN_CLEAN_UPS = 50  # each costs time, and the allocator must fetch anew what it gave back
TOLERATED_EXCESS = 1.05  # of the measured peak over the predicted one
REMEDIES = "training.gradient_checkpointing=true, or a shorter training.max_duration_seconds"

logger = logging.getLogger(__name__)


class MemoryMonitor(TrainerCallback):  # type: ignore[misc]
    """Adds memory to every logged line, in GiB, and keeps it below a threshold where it can.

    It must come before the callbacks that write the metrics. The first step should hold the longest utterances: its
    peak is compared with the prediction.

    Args:
        predicted_peak_bytes: of tensors, as `MemoryModel.peak` gives it; None compares nothing.
        limit_bytes: what the run may take; None is the GPU's memory, or the machine's as its container allows.
        threshold: share of the limit above which it cleans up.

    Raises:
        ConfigError: the threshold is no share.
    """

    def __init__(
        self, predicted_peak_bytes: int | None = None, *, limit_bytes: int | None = None, threshold: float = 0.92
    ) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError([f"threshold: expected more than 0 and at most 1; received {threshold}"])
        self.predicted_peak_bytes = predicted_peak_bytes
        self.measured_peak_bytes: int | None = None  # of the first step
        self.limit_bytes = limit_bytes
        self.threshold = threshold
        self.clean_ups = 0
        self._gpu: torch.device | None = None
        self._baseline_bytes = 0  # of this process without tensors
        self._cleaned_at_step: int | None = None
        self._has_warned = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Start counting from here."""
        self._gpu = args.device if args.device.type == "cuda" else None
        self._cleaned_at_step = None
        self.measured_peak_bytes = None
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)
        else:
            _reset_peak()
            self._baseline_bytes = _resident_bytes() - _bytes_of(given.get("model"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compare after the first step; clean up when memory runs short, and warn once when that does not help."""
        if self.measured_peak_bytes is None:
            self.measured_peak_bytes = self.peak_bytes()
            self._compare()
        limit = self.limit_bytes or self._whole_bytes()
        if self.used_bytes() <= self.threshold * limit or not self._may_clean_up(state.global_step):
            return
        gc.collect()
        if self._gpu is not None:
            torch.cuda.empty_cache()
        self.clean_ups += 1
        self._cleaned_at_step = state.global_step
        if (used := self.used_bytes()) > self.threshold * limit and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s", _advice(used, limit, args.per_device_train_batch_size, args.gradient_accumulation_steps)
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the figures to the line that is about to be written, and to the trainer's own history."""
        figures = self.figures()
        given["logs"].update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)

    def figures(self) -> dict[str, float]:
        """Memory now: names with their unit."""
        total, available = usable_memory()
        counts = {
            "memory_process_gib": _resident_bytes(),
            "memory_ram_used_gib": total - available,
            "memory_peak_gib": self.peak_bytes(),
        }
        if self._gpu is not None:
            counts["memory_gpu_allocated_gib"] = torch.cuda.memory_allocated(self._gpu)
            counts["memory_gpu_reserved_gib"] = torch.cuda.memory_reserved(self._gpu)
        if self.predicted_peak_bytes is not None:
            counts["memory_predicted_peak_gib"] = self.predicted_peak_bytes
        return {name: round(count / GIB, 4) for name, count in counts.items()}

    def peak_bytes(self) -> int:
        """The most that tensors held since training began; on a CPU, what the process grew by, the model included."""
        if self._gpu is not None:
            return torch.cuda.max_memory_allocated(self._gpu)
        return max(0, _peak_resident_bytes() - self._baseline_bytes)

    def used_bytes(self) -> int:
        """What counts against the limit: all that is taken of the GPU, or of the machine's memory.

        With a limit of one's own, what this process holds.
        """
        if self._gpu is not None:
            free, total = torch.cuda.mem_get_info(self._gpu)
            return torch.cuda.memory_reserved(self._gpu) if self.limit_bytes else total - free
        if self.limit_bytes:
            return _resident_bytes()
        total, available = usable_memory()
        return total - available

    def _whole_bytes(self) -> int:
        return torch.cuda.mem_get_info(self._gpu)[1] if self._gpu is not None else usable_memory()[0]

    def _may_clean_up(self, step: int) -> bool:
        return self._cleaned_at_step is None or step - self._cleaned_at_step >= STEPS_BETWEEN_CLEAN_UPS

    def _compare(self) -> None:
        predicted, measured = self.predicted_peak_bytes, self.measured_peak_bytes
        if not predicted or measured is None:
            return
        text = f"Peak of the first step: {measured / GIB:.2f} GiB, predicted were {predicted / GIB:.2f} GiB"
        # Without a card the process's own growth is measured: libraries that load late are in it too.
        if self._gpu is not None and measured > TOLERATED_EXCESS * predicted:
            logger.warning("%s (%+.0f %%): plan with a smaller safety_margin.", text, 100 * (measured / predicted - 1))
        else:
            logger.info("%s.", text)


def _advice(used: int, limit: int, batch_size: int, accumulation: int) -> str:
    """More micro-batches of fewer clips: optimizer steps stay what they were, so that a resumed run goes on alike."""
    text = f"{used / GIB:.2f} of {limit / GIB:.2f} GiB of memory are taken, also after a clean-up"
    if batch_size == 1:
        return f"{text}: if the run fails, resume it with {REMEDIES}."
    more = max(2, math.ceil(used / limit / 0.9))
    split = (
        f"training.gradient_accumulation_steps={more * accumulation} "
        f"training.per_device_train_batch_size={math.ceil(batch_size / more)}"
    )
    return f"{text}: if the run fails, resume it with {split}, or {REMEDIES}."


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak_resident_bytes() -> int:
    """The high-water mark; where the system does not tell, what is resident now."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes()


def _reset_peak() -> None:
    """Let the high-water mark start from here; where this is not allowed it also covers what came before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        logger.debug("the peak of process %d covers its whole life", os.getpid())


def _bytes_of(model: nn.Module | None) -> int:
    return sum(parameter.nbytes for parameter in model.parameters()) if model is not None else 0
