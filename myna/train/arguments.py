"""What the Trainer is told: `transformers.TrainingArguments` of a configuration, and the precision of its run."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainingArguments

from myna.errors import MissingExtraError

if TYPE_CHECKING:
    from myna.config import Config

# Keys of the training section that are not passed on as they are; gradient checkpointing has two names in
# transformers 5, one of them deprecated, so the model is told itself.
_OURS = {
    "early_stopping_patience",
    "stop_at",
    "save_every_epochs",
    "lr_scheduler_type",
    "metric_for_best_model",
    "gradient_checkpointing",
    "include_validation",
    "effective_batch_size",
    "safety_margin",
    "max_duration_seconds",
    "max_retries",
    "fsdp",
    "objective",
    "learning_rates",
    "optim",
    "torch_compile",
}
OPTIMIZER = "adamw_torch_fused"  # where nothing was planned

logger = logging.getLogger(__name__)


def training_arguments(config: Config) -> TrainingArguments:
    """`transformers.TrainingArguments` of the training section.

    Raises:
        MissingExtraError: a tracker is asked for that is not installed.
    """
    settings = config.training
    for tracker in settings.report_to:
        if find_spec(tracker) is None:
            raise MissingExtraError(tracker, "track")
    if settings.report_to:  # trackers take their places from the environment alone
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(settings.output_dir) / "tensorboard")
        os.environ["WANDB_DIR"] = settings.output_dir
        os.environ.setdefault("WANDB_PROJECT", "myna")
        os.environ.setdefault("WANDB_SILENT", "true")  # it would write on standard output at exit
    values = settings.model_dump(exclude=_OURS)
    if settings.save_strategy == "epoch":
        values["save_strategy"] = "no"  # EpochEnds does it, every N epochs
    arguments = TrainingArguments(
        **values,
        lr_scheduler_type="linear" if settings.lr_scheduler_type == "one_cycle" else settings.lr_scheduler_type,
        metric_for_best_model=settings.metric_for_best_model,
        greater_is_better=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        optim=OPTIMIZER if settings.optim == "auto" else settings.optim,
        torch_compile=settings.torch_compile is True,
        # Not told so, ranks without an accelerator would each train alone, unaware of one another.
        use_cpu=not torch.accelerator.is_available(),
    )
    if arguments.n_gpu > 1:  # alone with several cards: the Trainer would cut batches up by DataParallel
        arguments._n_gpu = 1
        logger.warning("This run uses one of %d GPUs; torchrun uses them all.", torch.cuda.device_count())
    return arguments


def compute_dtype(config: Config) -> torch.dtype:
    """What the layers of a 4-bit model compute in: as asked for, else what the run computes in."""
    asked = config.adapter.compute_dtype
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return training_dtype(config) if asked == "auto" else names[asked]


def training_dtype(config: Config) -> torch.dtype:
    """What the run computes in."""
    training = config.training
    return torch.bfloat16 if training.bf16 is True else torch.float16 if training.fp16 is True else torch.float32
