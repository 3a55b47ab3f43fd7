"""The ledger of a training step: each storage's birth and death, what it is for, and how large it is.

A storage, not a tensor, is what memory is taken for: views share one. Replaying a ledger gives the memory in use at
each moment; replaying it with other sizes gives that of another batch, since the order of events does not depend on
the shape of the batch.
"""

from __future__ import annotations

import weakref
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from myna.plan.memory import kernels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

Phase = Literal["forward", "backward", "optimizer", "evaluate"]

KINDS = (
    "parameters",  # and buffers
    "gradients",
    "optimizer_state",
    "activations",
    "autocast_copies",  # half-precision copies of weights
    "temporaries",  # of the backward pass
    "kernel_scratch",  # what kernels allocate for themselves
    "batch",
    "optimizer_temporaries",
)
PARAMETERS, GRADIENTS, OPTIMIZER_STATE, ACTIVATIONS, AUTOCAST_COPIES, TEMPORARIES, SCRATCH, BATCH, OPTIMIZER = range(9)


@dataclass(frozen=True)
class Ledger:
    """What a step did to memory, at one batch shape.

    Storages are numbered from 1 in the order of their births. Position 0 of `sizes` and `kinds` belongs to none.
    """

    clips: int
    seconds: float  # of each clip
    order: NDArray[np.int64]  # (events,): +i storage i is born, -i it dies; deaths in a row are sorted
    sizes: NDArray[np.int64]  # (storages + 1,) bytes, as asked for: not rounded to blocks
    kinds: NDArray[np.uint8]  # (storages + 1,) index into KINDS
    makers: NDArray[np.int64]  # (storages + 1,) which operation made it, as a number that this process alone knows
    marks: tuple[tuple[int, Phase], ...]  # (position in `order`, the phase that begins there)
    parameters: int  # count
    trainable: int  # count
    flop_terms: NDArray[np.int64]  # (calls, 2) operation, as in `makers`, and its count; of one micro-batch
    step_start: int = 0  # position in `order` where the last step begins; all that follows could be done once more

    @property
    def flops(self) -> int:
        """Floating-point operations of one micro-batch, forward and backward; what checkpointing repeats counts."""
        return int(self.flop_terms[:, 1].sum())

    def live_bytes(self, block: int = 1) -> NDArray[np.int64]:
        """Bytes in use after each event, every storage rounded up to whole blocks."""
        rounded = -(-self.sizes // block) * block
        return np.cumsum(np.where(self.order > 0, 1, -1) * rounded[np.abs(self.order)])

    def peak(self, block: int = 1) -> int:
        """The most bytes in use at one time."""
        return int(self.live_bytes(block).max())


class LedgerMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes the ledger of everything that runs under it.

    Args:
        on_fakes: the tensors are fake: answer what fake tensors cannot, and count what their kernels would allocate.
    """

    def __init__(self, *, on_fakes: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_fakes = on_fakes
        self.counting_flops = False
        self._flop_terms = array("q")
        self._order = array("q")
        self._sizes = array("q", [0])
        self._kinds = bytearray(1)
        self._makers = array("q", [0])
        self._maker = 0
        self._marks: list[tuple[int, Phase]] = []
        self._phase: Phase = "forward"
        self._living: dict[int, _Death] = {}  # by address of the storage

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: what torch would wrap around each operation for its compiler costs as much as the operation."""
        return False

    def mark(self, phase: Phase) -> None:
        """A phase begins."""
        self._phase = phase
        self._marks.append((len(self._order), phase))

    @property
    def position(self) -> int:
        """Events so far."""
        return len(self._order)

    def note(self, tensors: Iterable[Tensor], kind: int) -> None:
        """Say what the storages of these tensors are for."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            death = self._living.get(storage._cdata)
            if death is None:
                self._born(storage, kind)
            else:
                self._kinds[death.number] = kind

    def ledger(self, clips: int, seconds: float, parameters: int, trainable: int) -> Ledger:
        """The ledger so far."""
        order = _with_sorted_deaths(np.array(self._order, dtype=np.int64))
        return Ledger(
            clips=clips,
            seconds=seconds,
            order=order,
            sizes=np.array(self._sizes, dtype=np.int64),
            kinds=np.frombuffer(bytes(self._kinds), dtype=np.uint8),
            makers=np.array(self._makers, dtype=np.int64),
            marks=tuple(self._marks),
            parameters=parameters,
            trainable=trainable,
            flop_terms=np.array(self._flop_terms, dtype=np.int64).reshape(-1, 2),
            step_start=self._marks[0][0] if self._marks else 0,
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and enter what it allocated."""
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        answer = kernels.ANSWERS.get(func) if self.on_fakes else None
        out = NotImplemented if answer is None else answer(*args, **kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        if self.counting_flops and func._overloadpacket in kernels.FLOPS:
            count = kernels.FLOPS[func._overloadpacket](*args, **kwargs, out_val=out)
            self._flop_terms.extend((id(func), count))
        self._maker = id(func)
        measure = kernels.SCRATCH.get(func._overloadpacket) if self.on_fakes else None
        scratch = measure(args, out) if measure else 0
        if scratch:  # in use while the outputs are born
            number = self._enter(scratch, SCRATCH)
        self._enter_outputs(out, func, args)
        if scratch:
            self._order.append(-number)
        return out

    def _enter_outputs(self, out: Any, func: Any, args: Any) -> None:
        if isinstance(out, torch.Tensor):
            storage = out.untyped_storage()
            if storage._cdata not in self._living:
                self._born(storage, self._kind_now(func, args))
        elif isinstance(out, list | tuple):
            for item in out:
                self._enter_outputs(item, func, args)

    def _kind_now(self, func: Any, args: Any) -> int:
        if self._phase == "optimizer":
            return OPTIMIZER
        # While the autograd engine runs, gradients are recorded only where checkpointing computes a forward anew.
        if torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled():
            return TEMPORARIES
        if func is torch.ops.aten._to_copy.default:
            source = self._living.get(args[0].untyped_storage()._cdata)
            if source is not None and self._kinds[source.number] == PARAMETERS:
                return AUTOCAST_COPIES
        return ACTIVATIONS

    def _born(self, storage: torch.UntypedStorage, kind: int) -> None:
        death = _Death(storage, self._died)
        death.number = self._enter(storage.nbytes(), kind)
        death.address = storage._cdata
        self._living[death.address] = death

    def _enter(self, size: int, kind: int) -> int:
        number = len(self._sizes)
        self._sizes.append(size)
        self._kinds.append(kind)
        self._makers.append(self._maker)
        self._order.append(number)
        return number

    def _died(self, death: _Death) -> None:
        if self._living.get(death.address) is death:
            del self._living[death.address]
        self._order.append(-death.number)


class _Death(weakref.ref):  # type: ignore[type-arg]
    """A storage's end, waited for."""

    __slots__ = ("address", "number")

    number: int
    address: int


def with_second_step(ledger: Ledger, start: int) -> Ledger:
    """The ledger with its step, the events from `start` on, done once more.

    The second step does what the first did, but what outlived the first, the optimizer state, is there already.
    """
    step = ledger.order[start:]
    born, died = step[step > 0], -step[step < 0]
    again = np.isin(np.abs(step), np.intersect1d(born, died))
    numbers = np.intersect1d(born, died)
    new_number = np.zeros(len(ledger.sizes), dtype=np.int64)
    new_number[numbers] = len(ledger.sizes) + np.arange(len(numbers))
    repeated = step[again]
    position = len(ledger.order) + np.concatenate([[0], np.cumsum(again)])  # in the new order, of each event in `step`
    marks = tuple((int(position[at - start]), phase) for at, phase in ledger.marks if at >= start)
    return replace(
        ledger,
        step_start=len(ledger.order),
        order=np.concatenate([ledger.order, np.sign(repeated) * new_number[np.abs(repeated)]]),
        sizes=np.concatenate([ledger.sizes, ledger.sizes[numbers]]),
        kinds=np.concatenate([ledger.kinds, ledger.kinds[numbers]]),
        makers=np.concatenate([ledger.makers, ledger.makers[numbers]]),
        marks=ledger.marks + marks,
    )


def _with_sorted_deaths(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Deaths in a row come in any order (autocast's cache is a hash map): sort them by number."""
    run = np.cumsum(order > 0)  # the same for a birth and the deaths that follow it
    return order[np.lexsort((-order * (order < 0), order < 0, run))]
