"""What ranks do together: agree before anything is reduced, and average gradients.

Gradients are averaged here, after the last micro-batch, and not by DDP in the middle of a backward pass: a rank that
has run out of memory there would leave all others waiting. So every rank cuts and retries its micro-batches alone, as
often as it has to, and all meet at the step's end. DDP would also hold a second copy of all gradients.
"""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from myna.errors import TrainingError
    from myna.models.memory_limit import MemoryLimit

PACKED_ELEMENTS = 1 << 16  # gradients below this travel together


class Agreement:
    """Whether a step may go on, as all ranks see it, and what any of them learned about memory.

    Args:
        limit: of this rank; what others learn is merged into it, and its splits are those of all.
        world_size: number of ranks.
        device: where flags are reduced.
    """

    def __init__(self, limit: MemoryLimit, world_size: int, device: torch.device) -> None:
        self.limit = limit
        self.world_size = world_size
        self.device = device
        self._agreed_splits = limit.splits

    def reach(self, error: TrainingError | None = None) -> None:
        """Wait for all ranks; one small reduction where none has anything to tell.

        Args:
            error: why this rank cannot go on.

        Raises:
            TrainingError: a rank cannot go on; every rank raises it.
        """
        errors = [error]
        if self.world_size > 1:
            has_news = error is not None or self.limit.splits != self._agreed_splits
            flag = torch.tensor(int(has_news), device=self.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            if flag.item():
                errors = self._exchange(error)
        self._agreed_splits = self.limit.splits
        for failure in errors:
            if failure is not None:
                raise failure

    def _exchange(self, error: TrainingError | None) -> list[TrainingError | None]:
        parts = gathered((self.limit, self.limit.splits - self._agreed_splits, error), self.world_size)
        self.limit.splits = self._agreed_splits + sum(splits for _, splits, _ in parts)
        self.limit.merge([limit for limit, _, _ in parts])
        return [failure for _, _, failure in parts]


def gathered(value: Any, world_size: int) -> list[Any]:
    """What every rank gave, in their order."""
    parts = [value]
    if world_size > 1:
        parts = [None] * world_size
        torch.distributed.all_gather_object(parts, value)
    return parts


def gathered_if_well(value: Any, error: Exception | None, world_size: int) -> list[Any]:
    """What every rank gave, in their order; where any met an error, all raise it."""
    parts = gathered((value, error), world_size)
    for failure in (failure for _, failure in parts if failure is not None):
        raise failure
    return [value for value, _ in parts]


def leave_ranks() -> None:
    """Part from the other ranks at a process's end.

    Else threads of the process group are still there while the interpreter ends, and may abort it.
    """
    if torch.distributed.is_initialized():
        gc.collect()  # a model that is spread holds the group too, in cycles
        torch.distributed.destroy_process_group()


def shared_out(accumulation: int, started_ranks: int, ranks: int) -> tuple[int, str]:
    """The micro-batches of a step, cut for some ranks, dealt to another number of them.

    Where they cannot be dealt evenly the step is cut into a few more, which hold fewer clips: the step's utterances and
    their mean stay the same.

    Args:
        accumulation: micro-batches of each rank, of those that the run was started on.
        started_ranks: their number.
        ranks: that train now.

    Returns:
        Micro-batches of each rank now, and a sentence for people; "" where nothing changed.
    """
    parts = accumulation * started_ranks
    each = math.ceil(parts / ranks)
    if ranks == started_ranks:
        return each, ""
    cut = "as before" if each * ranks == parts else f"{parts} before, so that every rank has as many"
    return each, (
        f"Started on {started_ranks} rank{'s' * (started_ranks > 1)}, goes on with {ranks}: {each} of a step's "
        f"{each * ranks} micro-batches ({cut}) on each. Optimizer steps stay what they were."
    )


def share_first_rank(parameters: Iterable[Tensor]) -> None:
    """Let all ranks begin with what the first has; each has built the model from the same seed."""
    for parameter in parameters:
        if parameter.requires_grad:
            torch.distributed.broadcast(parameter.data, src=0)


def mean_gradients(parameters: Iterable[Tensor], world_size: int) -> None:
    """Replace every gradient by its mean over ranks; one that no rank has stays None.

    Args:
        parameters: the same ones, in the same order, on every rank.
        world_size: number of ranks.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    has_gradient = torch.tensor([parameter.grad is not None for parameter in trained]).int()
    has_gradient = has_gradient.to(trained[0].device)
    torch.distributed.all_reduce(has_gradient, op=torch.distributed.ReduceOp.MAX)
    gradients = []
    for parameter, is_there in zip(trained, has_gradient.tolist(), strict=True):
        if is_there:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
            parameter.grad = gradient
            gradients.append(gradient)
    small = [gradient for gradient in gradients if gradient.numel() < PACKED_ELEMENTS]
    for dtype in sorted({gradient.dtype for gradient in small}, key=str):
        of_type = [gradient for gradient in small if gradient.dtype == dtype]
        packed = torch.cat([gradient.flatten() for gradient in of_type])
        torch.distributed.all_reduce(packed)
        parts = torch.split(packed, [gradient.numel() for gradient in of_type])
        for gradient, part in zip(of_type, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for gradient in gradients:
        if gradient.numel() >= PACKED_ELEMENTS:
            torch.distributed.all_reduce(gradient)
        gradient.div_(world_size)
