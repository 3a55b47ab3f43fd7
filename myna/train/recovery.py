"""Steps that run out of memory go on: what does not fit is cut in halves and tried again within the step.

A step's loss is a sum over rows divided by the items of the whole step, so cutting changes no gradient but in rounding.
What a failing attempt left behind is undone exactly, without a copy of the gradients: a failure in the forward pass has
left nothing; after one in the backward pass, which may have added to some gradients and not to others, the step's
gradients are dropped, and what the step had done before is done again, with the same draws. So memory for recovery is
never taken from steps that need none, and the price is paid where it happens: at most the step so far, once more.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from myna.errors import TrainingError
from myna.models.memory_limit import (
    Piece,
    Shape,
    describe,
    first_line,
    free_memory,
    is_out_of_memory,
    may_try_again,
    most_that_fitted,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

    from myna.models.memory_limit import MemoryLimit
    from myna.samples import Batch

FORWARD, BACKWARD = "forward", "backward"


class _Work(NamedTuple):
    """A piece of the step."""

    piece: Piece
    part: int  # of the step: which micro-batch it was cut from
    is_counted: bool = False  # its loss has been: it only has to give its gradient again


class StepRecovery:
    """Forward and backward passes of a step's micro-batches, in as many pieces as memory wants.

    Before each piece torch's generator is seeded from (seed, step, part, first row): a piece that is run again draws
    the same dropout, and so does a resumed run, on any number of ranks. Two halves draw other masks than the whole.

    Args:
        limit: what is known about micro-batches that fit, to be added to.
        seed: of the run.
        max_retries: how often the same rows may fail; 0 gives up at the first failure.
        forget_gradients: sets all gradients to None.
        name_of: an utterance's ID as people know it.
    """

    def __init__(
        self,
        limit: MemoryLimit,
        seed: int,
        max_retries: int,
        forget_gradients: Callable[[], None],
        name_of: Callable[[str], str] = str,
    ) -> None:
        self.seed = seed
        self.max_retries = max_retries
        self.limit = limit
        self.step = 0
        self._forget_gradients = forget_gradients
        self._name_of = name_of
        self._done: list[_Work] = []

    def begin_step(self, step: int) -> None:
        """A step begins, without gradients."""
        self.step = step
        self._done = []

    def train(
        self, batch: Batch, part: int, forward: Callable[[Batch], Tensor], backward: Callable[[Tensor], None]
    ) -> Tensor:
        """Add a micro-batch's gradient.

        Args:
            batch: of the step, still in the machine's memory.
            part: which of the step's micro-batches, counted over all ranks.
            forward: the share of some rows in the step's loss.
            backward: adds the gradient of such a share.

        Returns:
            The micro-batch's share of the step's loss, without a graph.

        Raises:
            TrainingError: it does not fit, however it is cut.
        """
        waiting = [_Work(piece, part) for piece in self.limit.pieces(batch)]
        total: Tensor | None = None
        while waiting:
            work = waiting.pop(0)
            failed_in, reason, loss = self._attempt(work, forward, backward)
            if loss is not None:
                if not work.is_counted:
                    total = loss if total is None else total + loss
                self.limit.learn_fitted(Shape.of(work.piece.batch))
                self._done.append(work._replace(is_counted=True))
                continue
            free_memory()
            self._refuse_hopeless(work.piece, failed_in, reason)
            waiting = [*(work._replace(piece=piece) for piece in self.limit.after_failure(work.piece)), *waiting]
            if failed_in == BACKWARD:
                self._forget_gradients()
                waiting, self._done = [*self._done, *waiting], []
        assert total is not None
        return total

    def _attempt(
        self, work: _Work, forward: Callable[[Batch], Tensor], backward: Callable[[Tensor], None]
    ) -> tuple[str, str, Tensor | None]:
        """Where memory ran out and what was said of it, or the loss."""
        where = FORWARD
        seed_torch(self.seed, self.step, work.part, work.piece.first_row)
        try:
            loss = forward(work.piece.batch)
            where = BACKWARD
            backward(loss)
            return "", "", loss.detach()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        return where, reason, None

    def _refuse_hopeless(self, piece: Piece, failed_in: str, reason: str) -> None:
        if may_try_again(piece, self.max_retries):
            return
        fitted = self.limit.largest
        longer = f"training.max_duration_seconds={fitted.seconds:g}" if fitted else "training.max_duration_seconds"
        raise TrainingError(
            f"out of memory in the {failed_in} pass: expected {describe(piece.batch, self._name_of)} to fit after "
            f"{piece.failures} retries; {most_that_fitted(self.limit)} ({reason})",
            f"Go on with --resume and training.gradient_checkpointing=true, training.bf16=true or a larger "
            f"training.max_retries (now {self.max_retries}); set such clips aside with {longer}; or free memory.",
        )


def seed_torch(seed: int, step: int, part: int, first_row: int) -> None:
    """What dropout draws depends on these alone."""
    place = [seed, step, part, *([first_row] if first_row else [])]
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))


def step_with_retries(step: Callable[[], Any], optimizer: Optimizer, max_retries: int) -> None:
    """An optimizer's step, begun anew after memory ran out before it had changed anything.

    Its first step makes its state, and that is where memory runs out: what of it was made is dropped again.

    Args:
        step: takes it.
        optimizer: what it changes.
        max_retries: how often.

    Raises:
        TrainingError: it does not fit, or memory ran out half way, with some weights changed and others not.
    """
    for retries_left in range(max_retries, -1, -1):
        known, before = set(optimizer.state), _versions(optimizer)
        try:
            step()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        for parameter in set(optimizer.state) - known:
            del optimizer.state[parameter]
        free_memory()
        if not retries_left or _versions(optimizer) != before:
            break
    half_way = ", with a part of the weights changed" if _versions(optimizer) != before else ""
    count = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    raise TrainingError(
        f"out of memory in the optimizer's step{half_way}: expected its state for {count / 1e6:.1f} M trained "
        "parameters to fit beside the model",
        "Go on with --resume from the last checkpoint when there is more memory; or train fewer parameters, by "
        "freezing layers or with a smaller model.",
    )


def retry_steps(optimizer: Any, max_retries: int, agree: Callable[[TrainingError | None], None]) -> None:
    """Make an optimizer's steps begin anew where memory runs out, and fail on all ranks or on none.

    Args:
        optimizer: to change, as accelerate has wrapped it.
        max_retries: as `step_with_retries`.
        agree: told after every step why this rank cannot go on; raises what any rank was told.
    """
    take_step = optimizer.step

    @wraps(take_step)  # the schedule marks what it has counted
    def step() -> None:
        error = None
        try:
            step_with_retries(take_step, optimizer, max_retries)
        except TrainingError as failure:
            error = failure
        agree(error)

    optimizer.step = step


def _versions(optimizer: Optimizer) -> list[int]:
    """Of all tensors that a step changes: torch counts every change in place."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [value._version for value in [*parameters, *states] if isinstance(value, torch.Tensor)]
