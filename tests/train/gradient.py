"""Writes the gradient of a tiny model's first optimizer step; run alone or under torchrun.

Usage: gradient.py CATALOG OUT.safetensors PER_DEVICE ACCUMULATION
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from myna.config import load_config
from myna.data.catalog import Catalog
from myna.feed.epoch import BatchBudget
from myna.feed.evaluation import EvaluationBatches
from myna.feed.local import LocalFeed
from myna.feed.work import TrainingBatches
from myna.models.build import build_recognizer
from myna.models.recognizer import DecodeOptions
from myna.train.arguments import training_arguments
from myna.train.ranks import leave_ranks
from myna.train.trainer import SpeechTrainer

CLIPS_PER_STEP = 32


class KeepGradient(TrainerCallback):
    """Keeps the gradient that the first optimizer step is about to use."""

    def __init__(self) -> None:
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        named = getattr(model, "module", model).named_parameters()
        self.gradient = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def first_gradient(catalog: Path, per_device: int, accumulation: int, out: Path) -> None:
    torch.set_num_threads(1)
    config = load_config(
        [],
        [
            f"data.db={catalog}",
            f"training.output_dir={out.parent / out.stem}",
            "model.d_model=32",
            "model.num_encoder_layers=2",
            "model.d_ff=64",
            "model.conv_kernel_size=7",
            *(f"training.{key}=false" for key in ("bf16", "fp16", "gradient_checkpointing")),
            "training.per_device_eval_batch_size=8",
            "model.dropout=0",
            "training.max_steps=1",
            "training.max_grad_norm=0",
            "training.eval_strategy=no",
            "training.save_strategy=no",
            "training.dataloader_num_workers=0",
            f"training.per_device_train_batch_size={per_device}",
            f"training.gradient_accumulation_steps={accumulation}",
        ],
    )
    with Catalog(catalog) as opened:
        utterances = list(opened.utterances(opened.version("").version_id, split="train"))
    set_seed(0)
    recognizer = build_recognizer(config, [utterance.text for utterance in utterances])
    args = training_arguments(config)
    longest = max(utterance.duration_seconds for utterance in utterances)
    work = TrainingBatches(
        utterances,
        recognizer.processor,
        BatchBudget.from_longest(longest, per_device, accumulation=accumulation, world_size=args.world_size),
        parts=accumulation * args.world_size,
    )
    assert per_device * accumulation * args.world_size == CLIPS_PER_STEP
    keep = KeepGradient()
    trainer = SpeechTrainer(
        recognizer,
        LocalFeed(work, num_workers=0, total=work.per_epoch, world_size=args.world_size),
        work.per_epoch,
        EvaluationBatches([], recognizer.processor, 1.0),
        args=args,
        decode_options=DecodeOptions(),
        callbacks=[keep],
    )
    trainer.train()
    if args.process_index == 0:
        save_file(keep.gradient, out)
    leave_ranks()


if __name__ == "__main__":
    first_gradient(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[2]))
