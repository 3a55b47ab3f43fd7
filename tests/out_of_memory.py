"""Memory that runs out where a test wants it; as a script, a training run with such failures, alone or under torchrun.

Usage: out_of_memory.py EVERY RANK [resume=RUN] [ram=MIB] [section.key=value ...]

With ram, the run may take so much more than it has when its first micro-batch begins.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console

from myna.config import load_config
from myna.models import ctc_model
from myna.samples import Batch
from myna.train import run
from myna.train.ranks import leave_ranks
from myna.train.run import resumed_config, train
from myna.train.trainer import SpeechTrainer

TINY = [
    "data.min_duration_seconds=0.1",
    "model.d_model=32",
    "model.num_encoder_layers=2",
    "model.d_ff=64",
    "model.conv_kernel_size=7",
    "model.dropout=0",
    "training.learning_rate=1e-3",
    "training.logging_steps=1",
    "training.dataloader_num_workers=0",
    "training.per_device_train_batch_size=4",
    "training.per_device_eval_batch_size=8",
    "training.max_duration_seconds=30",
    *(f"training.{key}=false" for key in ("bf16", "fp16", "gradient_checkpointing")),
]
WHERE = ("backward", "forward", "optimizer")


class Failures:
    """Memory runs out once in every `every`-th step, on one rank, by turns in the backward pass, the forward pass and
    the optimizer.

    Args:
        every: steps from one to the next.
        rank: where it happens.
    """

    def __init__(self, every: int, rank: int) -> None:
        self.every = every
        self.is_here = int(os.environ.get("RANK", "0")) == rank
        self.armed = ""
        self.raised: list[str] = []
        self._turns = cycle(WHERE)
        self._step = -1
        self._hooked = False

    def run_out(self, where: str) -> None:
        """Raise, where it is the turn of this place."""
        if self.armed == where:
            self.armed = ""
            self.raised.append(where)
            raise torch.OutOfMemoryError(f"out of memory, as the test wants it ({where})")

    def begin_step(self, trainer: SpeechTrainer) -> None:
        """Arm a failure where one is due; half way through a step, so that there is something to do again."""
        if trainer.state.global_step == self._step:
            return
        self._step = trainer.state.global_step
        if not self._hooked:  # after some gradients of later layers are there, and before those of earlier ones
            trainer.recognizer.model.layers[0].register_full_backward_pre_hook(lambda *_: self.run_out("backward"))
            self._hooked = True
        if self.is_here and self._step % self.every == 0:
            self.armed = next(self._turns)


@contextlib.contextmanager
def running_out(every: int, rank: int = 0) -> Iterator[Failures]:
    """Training inside fails as `Failures` says."""
    failures = Failures(every, rank)
    compute_loss, take_step = SpeechTrainer.compute_loss, torch.optim.AdamW.step

    def loss(trainer: SpeechTrainer, *given: Any, **named: Any) -> torch.Tensor:
        is_last = trainer._micro_batches_done == trainer.args.gradient_accumulation_steps
        if is_last:
            failures.begin_step(trainer)
        share = compute_loss(trainer, *given, **named)
        failures.run_out("forward")
        return share

    def step(optimizer: torch.optim.AdamW, *given: Any) -> Any:
        if failures.armed == "optimizer" and not optimizer.state:  # with a part of the state made
            parameter = optimizer.param_groups[0]["params"][0]
            optimizer.state[parameter] = {"step": torch.zeros(())}
        failures.run_out("optimizer")
        return take_step(optimizer, *given)

    with patch.object(SpeechTrainer, "compute_loss", loss), patch.object(torch.optim.AdamW, "step", step):
        yield failures


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Training inside reckons in float64, where rounding cannot hide a gradient that is lost or counted twice."""
    build, prepare_inputs, losses = run.build_recognizer, SpeechTrainer._prepare_inputs, ctc_model.ctc_losses

    def built(*given: Any) -> Any:
        recognizer = build(*given)
        recognizer.model.double()
        return recognizer

    def prepared(trainer: SpeechTrainer, inputs: Batch) -> Batch:
        batch = prepare_inputs(trainer, inputs)
        return replace(batch, features=batch.features.double())

    def kept(logits: torch.Tensor, *given: Any) -> torch.Tensor:
        with patch.object(torch.Tensor, "float", lambda tensor: tensor):
            return losses(logits, *given)

    with (
        patch.object(run, "build_recognizer", built),
        patch.object(SpeechTrainer, "_prepare_inputs", prepared),
        patch.object(ctc_model, "ctc_losses", kept),
    ):
        yield


@contextlib.contextmanager
def limited(mebibytes: int) -> Iterator[None]:
    """The machine gives this process no more memory than it has when training begins, and so much."""
    training_step = SpeechTrainer.training_step

    def step(*given: Any, **named: Any) -> Any:
        if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
            lines = Path("/proc/self/status").read_text().splitlines()
            taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, (taken + mebibytes * 2**20, resource.RLIM_INFINITY))
        return training_step(*given, **named)

    # oneDNN may crash the process where an allocation of its own fails, close to the limit: out of anyone's hands.
    with patch.object(SpeechTrainer, "training_step", step), torch.backends.mkldnn.flags(enabled=False):
        yield


def main(every: int, rank: int, given: list[str]) -> None:
    """Run as the command line says."""
    special = {name: value for name, _, value in (text.partition("=") for text in given) if name in ("resume", "ram")}
    overrides = [text for text in given if text.partition("=")[0] not in special]
    with contextlib.ExitStack() as stack:
        if every:
            stack.enter_context(running_out(every, rank))
        if "ram" in special:
            stack.enter_context(limited(int(special["ram"])))
        folder = special.get("resume", "")
        config = resumed_config(folder, overrides) if folder else load_config([], [*TINY, *overrides])
        train(config, resume=folder, console=Console(stderr=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    finally:
        leave_ranks()
    threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    assert not any("gloo" in name for name in threads), threads  # it could abort the process, now and then
