"""Training with parameters, gradients and optimizer state spread over ranks (`training.fsdp`)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from myna.errors import TrainingError
from myna.models.memory_limit import MemoryLimit, first_line, free_memory, is_out_of_memory
from myna.train.ranks import gathered_if_well
from myna.train.shards import Shards, whole_state, whole_tensor
from myna.train.trainer import SpeechTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers.trainer_utils import TrainOutput

    from myna.models.recognizer import Recognizer


def refuse_one_rank() -> None:
    """Of a run whose parameters are to be spread.

    Raises:
        TrainingError: it has one rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise TrainingError(
            "training.fsdp: expected several ranks to spread parameters over; received 1",
            "Start it with torchrun --nproc_per_node=N, or set training.fsdp=false.",
        )


class ShardedTrainer(SpeechTrainer):
    """Trains a recogniser of which each rank holds a share.

    Ranks need one another in every layer, so all have to cut steps alike: limits that were learned otherwise are kept
    for later, not heeded, and a micro-batch that does not fit is not tried again.
    """

    shards: Shards

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.recovery.limit, self.recovery.max_retries = MemoryLimit(), 0

    def train(self, *given: Any, **named: Any) -> TrainOutput:
        """As ever, once: ranks part after it."""
        outcome = super().train(*given, **named)
        self.shards.let_go()
        return outcome

    def begin_alike(self) -> None:
        """Let all ranks begin with what the first has, and let go of all but a share of it."""
        super().begin_alike()
        self.shards = Shards(self.recognizer, self.args.world_size, self.args.device)

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        """As ever; where another rank has ended within the step, this one says so."""
        try:
            return super().training_step(*given, **named)
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "by peer" not in str(error):  # closed, or reset
                raise
            raise TrainingError(
                f"step {self.state.global_step + 1}: expected all ranks; another has ended within it "
                f"({first_line(error)})",
                "See what that rank says, then go on with --resume.",
            ) from error

    def meet_ranks(self, error: TrainingError | None) -> None:
        """Gradients have been averaged, layer by layer; nothing can be agreed on while others wait within a layer.

        Raises:
            TrainingError: this rank cannot go on.
        """
        if error is not None:
            raise TrainingError(
                f"{error.problem}; with training.fsdp a step is not retried, since every layer needs all ranks",
                "Go on with --resume, or begin again where there is no checkpoint yet, with a larger "
                "training.gradient_accumulation_steps, which cuts steps into smaller micro-batches, "
                "training.gradient_checkpointing=true or more ranks.",
            )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return whole_tensor(super()._get_grad_norm(model, grad_norm=grad_norm))

    def validate(self, prefix: str) -> dict[str, float]:
        """As ever, with the whole recogniser: ranks decode each at their own pace."""
        with self._whole_on_device():
            return super().validate(prefix)

    @contextlib.contextmanager
    def _whole_on_device(self) -> Iterator[None]:
        spread, whole = self.recognizer, self.shards.gathered()
        model: Any = whole.model
        try:
            gathered_if_well(None, _moved(model, self.args.device), self.args.world_size)
            self.recognizer = whole
            yield
        finally:
            self.recognizer = spread
            model.to("cpu")

    def whole(self) -> tuple[Recognizer, dict[str, Any]]:
        """What a checkpoint holds, gathered from all ranks; the optimizer's state for the rank that writes."""
        return self.shards.gathered(), whole_state(self.optimizer, keep=self.args.should_save)


def _moved(model: Any, device: Any) -> TrainingError | None:
    """Move a model; what to tell the other ranks where it does not fit."""
    try:
        model.to(device)
        return None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    free_memory()
    return TrainingError(
        f"out of memory before validation: expected the whole model to fit beside this rank's share of it ({reason})",
        "Go on with --resume and more ranks, or with training.eval_strategy=no.",
    )
