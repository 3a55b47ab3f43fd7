"""Checkpoints: a folder that appears whole, holds no pickle and is enough to go on bit for bit.

checkpoint-120/
  config.json, model.safetensors, ...   what `from_pretrained` reads
  optimizer.safetensors                 optimizer tensors, named by parameter position
  training_state.json                   optimizer groups, schedule, gradient scaler
  trainer_state.json                    step, epoch, best score, history

No random state is stored: the trainer seeds every step from (seed, step, micro-batch).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from myna.errors import TrainingError
from myna.train.shards import spread_like

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "training_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def save_training_state(
    folder: Path, optimizer_state: dict[str, Any], scheduler: LRScheduler, scaler: Any = None
) -> None:
    """Write what a resumed run needs besides the model.

    Args:
        folder: the checkpoint being staged.
        optimizer_state: its tensors, each whole, go to safetensors, its settings to JSON.
        scheduler: of the learning rate.
        scaler: gradient scaler of fp16 training, or None.
    """
    tensors, numbers = {}, {}
    for position, values in optimizer_state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{position}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers[f"{position}.{name}"] = value
    save_file(tensors, folder / OPTIMIZER_FILE)
    training_state = {
        "optimizer": {"numbers": numbers, "param_groups": optimizer_state["param_groups"]},
        "scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    (folder / STATE_FILE).write_text(json.dumps(training_state))


def load_training_state(folder: Path, optimizer: Optimizer, scheduler: LRScheduler, scaler: Any = None) -> None:
    """Put optimizer, schedule and scaler back to where `save_training_state` left them.

    Raises:
        TrainingError: the checkpoint has no training state, or it belongs to another model.
    """
    if not (folder / STATE_FILE).is_file() or not (folder / OPTIMIZER_FILE).is_file():
        raise TrainingError(
            f"{folder}: expected {OPTIMIZER_FILE} and {STATE_FILE}; received a folder without them",
            "To start a new run from these weights, set model.pretrained instead of --resume.",
        )
    stored = json.loads((folder / STATE_FILE).read_text())
    values: dict[int, dict[str, Any]] = {}
    for key, value in (load_file(folder / OPTIMIZER_FILE) | stored["optimizer"]["numbers"]).items():
        position, name = key.split(".", 1)
        values.setdefault(int(position), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, parameter in enumerate(parameters):
        state = values.get(place, {})
        state.update({name: spread_like(value, parameter) for name, value in state.items()})
    try:
        optimizer.load_state_dict({"state": values, "param_groups": stored["optimizer"]["param_groups"]})
    except ValueError as error:
        raise TrainingError(
            f"{folder}: its optimizer state belongs to another model ({error})",
            "Resume with the configuration that the run was started with.",
        ) from error
    scheduler.load_state_dict(stored["scheduler"])
    if scaler is not None and stored["scaler"] is not None:
        scaler.load_state_dict(stored["scaler"])


def checkpoints(run_folder: Path) -> list[Path]:
    """The run's complete checkpoints, earliest step first."""
    found = [entry for entry in run_folder.glob("checkpoint-*") if _NAME.fullmatch(entry.name) and entry.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when the checkpoint was written."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else -1


def latest_checkpoint(run_folder: Path) -> Path:
    """The checkpoint to resume from.

    Raises:
        TrainingError: the folder is no run, or was stopped before its first checkpoint.
    """
    found = checkpoints(run_folder)
    if not found:
        raise TrainingError(
            f"--resume {run_folder}: expected a run folder with a checkpoint; there is none",
            "Start the run again without --resume, after removing this folder or with another training.output_dir.",
        )
    return found[-1]


def remove_old(run_folder: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    for checkpoint in checkpoints(run_folder)[:-keep]:
        if step_of(checkpoint) != best_step:
            shutil.rmtree(checkpoint, ignore_errors=True)
