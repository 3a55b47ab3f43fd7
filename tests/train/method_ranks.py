"""Compares the gradient of two ranks with that of one, for every family and method, checkpointed or not, spread or not.

Usage: torchrun --nproc-per-node=2 method_ranks.py BASES; a line is printed for each case that agrees.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from method_cases import FAMILIES, METHODS, SHORT_CONTEXT, build_method, gradient_of, speech_batch
from torch import distributed
from torch.distributed.tensor import DTensor

from myna.models.recognizer import Recognizer
from myna.samples import Batch
from myna.train.ranks import leave_ranks, mean_gradients
from myna.train.shards import Shards, whole_tensor
from myna.train.teacher import Distillation

SPREAD = ("full", "freeze_encoder", "freeze_layers")  # by training.fsdp besides; refused with a short context


def rows_of(batch: Batch, rows: slice) -> Batch:
    names = ("utterance_ids", "features", "feature_lengths", "labels", "label_lengths", "weights")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


def check(recognizer: Recognizer, case: str, *, is_spread: bool = False) -> None:
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    batch = speech_batch(recognizer)
    whole = {name: value.clone() for name, value in gradient_of(recognizer, batch).items()}
    recognizer.model.zero_grad()
    if is_spread:
        Shards(recognizer, ranks, torch.device("cpu"))
    share = rows_of(batch, slice(rank * 2, rank * 2 + 2))
    (recognizer.losses(recognizer.model, share).sum() * ranks / recognizer.items(batch).sum()).backward()
    if not is_spread:
        mean_gradients(recognizer.model.parameters(), ranks)
    for name, parameter in recognizer.model.named_parameters():
        if parameter.requires_grad:
            assert isinstance(parameter.grad, DTensor) is is_spread
            gradient = whole_tensor(parameter.grad)
            torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-5, msg=f"{case}: {name}")
    if rank == 0:
        print(case, flush=True)


def taught_one(base: Path, family: str) -> Recognizer:
    """A student that learns from a teacher of more certainty."""
    student, teacher = (build_method(base, family, "full", "model.mask_time_prob=0") for _ in range(2))
    teacher.model.eval().requires_grad_(False)
    for parameter in teacher.model.parameters():
        parameter.mul_(1.1)
    device = torch.device("cpu")
    student.losses = Distillation(student, teacher, alpha=0.5, temperature=2, device=device, keep_bytes=10**6).losses
    return student


def main(bases: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for family, more in [*((family, ()) for family in FAMILIES), ("whisper", SHORT_CONTEXT)]:
        for method, checkpointing in product(METHODS, (False, True)):
            for is_spread in (False, True) if method in SPREAD and not more else (False,):
                recognizer = build_method(bases / family, family, method, "model.mask_time_prob=0", *more)
                if checkpointing:
                    recognizer.model.gradient_checkpointing_enable({"use_reentrant": False})
                case = f"{family} {method}{' checkpointed' * checkpointing}{' spread' * is_spread}"
                check(recognizer, case, is_spread=is_spread)
        check(taught_one(bases / family, family), f"{family} with a teacher")
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
