"""A step's memory for any batch, from the ledgers of a few.

The order of births and deaths does not depend on the shape of the batch. So each storage's size is fitted, not the
peak, which is a maximum over many moments; then the ledger is replayed with the sizes of the batch in question.
"""

from __future__ import annotations

import io
import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from myna.plan.memory.allocator import MIN_BLOCK_BYTES, CudaAllocator, ProcessHeap, SimulatedOutOfMemoryError, replay
from myna.plan.memory.model import MemoryModel, Peak
from myna.plan.memory.polynomials import fit_above, fit_rows, terms
from myna.plan.memory.script import Script
from myna.plan.request import MemoryRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from myna.plan.memory.allocator import Allocator, Block
    from myna.plan.memory.ledger import Ledger

# Reserved over in use where no ledger can be replayed: the worst that was simulated over changing lengths is 1.42.
FRAGMENTATION = 1.45
# A process's heap over the simulated one: the changing sizes of checkpointing strain glibc's bins, which are no exact
# best fit. Measured over 8 steps after `return_freed_memory`: 0.74 to 1.07 plain, 1.01 to 1.24 checkpointed.
CHECKPOINTED_HEAP_OVERHEAD = 1.1
LIBRARY_BUFFER_BYTES = 32 << 20
# Over the probes' own peaks, where their ledgers differ in more than sizes.
UNALIGNED_MARGIN = 1.1
MIN_ALIKE = 3  # probes that must go the same way
PROBE_TOLERANCE = 0.01  # of their peaks


class FittedMemory(MemoryModel):
    """A model whose figures were fitted to traced steps; it can be written and read back.

    Args:
        flop_coefficients: (NUM_TERMS,) of the terms of `polynomials.terms`.
    """

    def __init__(
        self,
        request: MemoryRequest,
        parameters: int,
        trainable: int,
        *,
        exact: bool,
        flop_coefficients: NDArray[np.float64],
    ) -> None:
        super().__init__(request, parameters, trainable, exact=exact)
        self._flop_coefficients = flop_coefficients

    def flops(self, clips: int, seconds: float) -> float:
        """See `MemoryModel.flops`."""
        return float(self._flop_coefficients @ terms(clips, seconds))

    def to_bytes(self) -> bytes:
        """The model as an .npz archive without pickles."""
        header: dict[str, Any] = {
            "kind": type(self).__name__,
            "request": self.request.to_json(),
            "parameters": self.parameters,
            "trainable": self.trainable,
        }
        arrays = self._pack(header)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take any keyword for allow_pickle
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> FittedMemory:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: not such an archive.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays["header"].tobytes())
            request = MemoryRequest.from_json(header["request"])
            if header["kind"] == TracedMemory.__name__:
                return TracedMemory._unpack(request, header, arrays)
            return BoundedMemory._unpack(request, header, arrays)
        except (EOFError, OSError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise ValueError(f"expected a memory model; received {len(content)} bytes ({error!r})") from error

    @abstractmethod
    def _pack(self, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Add what is not an array to the header; return what is."""


class TracedMemory(FittedMemory):
    """A traced step, replayed with the sizes of the batch in question.

    Args:
        script: the step's course.
        rows: (storages + 1,) the row of `coefficients` that gives a storage's size.
        coefficients: (distinct sizes, NUM_TERMS) of the terms of `polynomials.terms`.
        flop_coefficients: (NUM_TERMS,) likewise.
    """

    def __init__(
        self,
        request: MemoryRequest,
        parameters: int,
        trainable: int,
        *,
        script: Script,
        rows: NDArray[np.int64],
        coefficients: NDArray[np.float64],
        flop_coefficients: NDArray[np.float64],
    ) -> None:
        super().__init__(request, parameters, trainable, exact=True, flop_coefficients=flop_coefficients)
        self.script = script
        self._rows = rows
        self._coefficients = coefficients
        self._on_cuda = request.settings.device == "cuda"

    def sizes(self, clips: int, seconds: float) -> NDArray[np.int64]:
        """(storages + 1,) bytes of each storage, in whole blocks on cuda."""
        block = MIN_BLOCK_BYTES if self._on_cuda else 1
        values = np.maximum(np.round(self._coefficients @ terms(clips, seconds)), 0).astype(np.int64)
        sizes: NDArray[np.int64] = (-(-values // block) * block)[self._rows]
        return sizes

    def peak(self, clips: int, seconds: float) -> Peak:
        """See `MemoryModel.peak`."""
        sizes = self.sizes(clips, seconds)
        live = self.script.live_bytes(sizes)
        position = int(live.argmax())
        parts = self.script.parts_at(position, sizes)
        return Peak(int(live[position]), self.script.phase_at(position), parts)

    def reserved(self, clips: int, seconds: float, then: Sequence[tuple[int, float]] = ()) -> int:
        """See `MemoryModel.reserved`."""
        allocator = CudaAllocator() if self._on_cuda else ProcessHeap()
        self._run(allocator, [(clips, seconds), *then, *([(clips, seconds)] if then else [])])
        if self._on_cuda:
            return allocator.peak_reserved
        checkpointed = self.request.settings.gradient_checkpointing
        overhead = CHECKPOINTED_HEAP_OVERHEAD if checkpointed else 1.0
        return int(overhead * allocator.peak_reserved) + LIBRARY_BUFFER_BYTES

    def fits(self, clips: int, seconds: float, limit_bytes: int, then: Sequence[tuple[int, float]] = ()) -> bool:
        """See `MemoryModel.fits`."""
        batches = [(clips, seconds), *then]
        for batch in batches:  # far quicker than a simulation, and most questions of a search end here
            if self.script.live_bytes(self.sizes(*batch)).max() > limit_bytes:
                return False
        if not self._on_cuda:
            return self.reserved(clips, seconds, then) <= limit_bytes
        try:  # with its limit, the allocator gives back what it cached before it fails
            self._run(CudaAllocator(limit_bytes), batches + batches[:1] if then else batches)
        except SimulatedOutOfMemoryError:
            return False
        return True

    def _run(self, allocator: Allocator, batches: Sequence[tuple[int, float]]) -> None:
        """Two steps of the first batch, then one step of each other."""
        living: dict[int, Block] = {}
        script = self.script
        replay(allocator, script.order.tolist(), self.sizes(*batches[0]).tolist(), living)
        before, step = script.order[: script.step_start], script.order[script.step_start :].tolist()
        batch_kind = script.kind_names.index("batch")
        inputs = [int(event) for event in before if event > 0 and script.kinds[event] == batch_kind]
        newest = int(before.max(initial=0))
        for batch in batches[1:]:
            for number in [number for number in living if number > newest]:  # of the step before, such as its loss
                allocator.free(living.pop(number))
            sizes = self.sizes(*batch).tolist()
            replay(allocator, [-number for number in inputs] + inputs + step, sizes, living)

    def _pack(self, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
        script = self.script
        header |= {"kind_names": script.kind_names, "marks": script.marks, "step_start": script.step_start}
        return {
            "order": script.order.astype(np.int32),
            "kinds": script.kinds,
            "rows": self._rows.astype(np.int32),
            "coefficients": self._coefficients,
            "flop_coefficients": self._flop_coefficients,
        }

    @classmethod
    def _unpack(cls, request: MemoryRequest, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> TracedMemory:
        script = Script(
            order=arrays["order"].astype(np.int64),
            kinds=arrays["kinds"],
            kind_names=tuple(header["kind_names"]),
            marks=tuple((int(position), str(phase)) for position, phase in header["marks"]),
            step_start=int(header["step_start"]),
        )
        return cls(
            request,
            header["parameters"],
            header["trainable"],
            script=script,
            rows=arrays["rows"].astype(np.int64),
            coefficients=arrays["coefficients"],
            flop_coefficients=arrays["flop_coefficients"],
        )


class BoundedMemory(FittedMemory):
    """A bound above a step's memory, for when a step cannot be replayed.

    Args:
        bounds: by phase, by what memory is for: (NUM_TERMS,) coefficients of the terms of `polynomials.terms`.
        flop_coefficients: (NUM_TERMS,) likewise.
    """

    def __init__(
        self,
        request: MemoryRequest,
        parameters: int,
        trainable: int,
        *,
        bounds: Mapping[str, Mapping[str, NDArray[np.float64]]],
        flop_coefficients: NDArray[np.float64],
    ) -> None:
        super().__init__(request, parameters, trainable, exact=False, flop_coefficients=flop_coefficients)
        self._bounds = bounds

    def peak(self, clips: int, seconds: float) -> Peak:
        """See `MemoryModel.peak`."""
        values = terms(clips, seconds)
        phases = {
            phase: {part: int(np.ceil(bound @ values)) for part, bound in parts.items() if bound.any()}
            for phase, parts in self._bounds.items()
        }
        phase = max(phases, key=lambda name: sum(phases[name].values()))
        return Peak(sum(phases[phase].values()), phase, phases[phase])

    def reserved(self, clips: int, seconds: float, then: Sequence[tuple[int, float]] = ()) -> int:
        """See `MemoryModel.reserved`."""
        most = max(self.peak(*batch).bytes for batch in [(clips, seconds), *then])
        return int(most * FRAGMENTATION)

    def fits(self, clips: int, seconds: float, limit_bytes: int, then: Sequence[tuple[int, float]] = ()) -> bool:
        """See `MemoryModel.fits`."""
        return self.reserved(clips, seconds, then) <= limit_bytes

    def _pack(self, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
        header["bounds"] = {
            phase: {part: bound.tolist() for part, bound in parts.items()} for phase, parts in self._bounds.items()
        }
        return {"flop_coefficients": self._flop_coefficients}

    @classmethod
    def _unpack(cls, request: MemoryRequest, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> BoundedMemory:
        bounds = {
            phase: {part: np.array(bound) for part, bound in parts.items()} for phase, parts in header["bounds"].items()
        }
        flops = arrays["flop_coefficients"]
        return cls(request, header["parameters"], header["trainable"], bounds=bounds, flop_coefficients=flops)


def fit_memory_model(
    request: MemoryRequest, probes: Sequence[tuple[int, float]], ledgers: Sequence[Ledger]
) -> FittedMemory:
    """The memory model of a request from its traced steps.

    Args:
        request: what was traced.
        probes: (clips, seconds) of each ledger. Two clips or more: a batch of one is copied less often. Four probes
            of different lengths leave one to check the fit.
        ledgers: as `step.trace` gives them.

    Returns:
        An exact model if it meets the peaks of all probes; else a bound above them (`exact` is False).
    """
    scripts = [Script.of(ledger) for ledger in ledgers]
    first = ledgers[0]
    flops = fit_rows(probes, np.array([[float(ledger.flops) for ledger in ledgers]]))[0][0]
    # A few probes may go another way, where a mask needs no padding for example: the others speak for them.
    groups = [[at for at, other in enumerate(scripts) if script.same_course(other)] for script in scripts]
    alike = max(groups, key=len)
    sizes = np.stack([ledgers[at].sizes for at in alike], axis=1)  # (storages + 1, probes alike)
    distinct, rows = np.unique(sizes, axis=0, return_inverse=True)
    coefficients, _ = fit_rows([probes[at] for at in alike], distinct.astype(np.float64))
    model = TracedMemory(
        request,
        first.parameters,
        first.trainable,
        script=scripts[alike[0]],
        rows=rows.ravel(),
        coefficients=coefficients,
        flop_coefficients=flops,
    )
    peaks = [ledger.peak(MIN_BLOCK_BYTES if request.settings.device == "cuda" else 1) for ledger in ledgers]
    found = [model.peak(*probe).bytes for probe in probes]
    if len(alike) >= MIN_ALIKE and np.allclose(found, peaks, rtol=PROBE_TOLERANCE, atol=0):
        return model
    bounds = _bounds(probes, scripts, [ledger.sizes for ledger in ledgers])
    return BoundedMemory(request, first.parameters, first.trainable, bounds=bounds, flop_coefficients=flops)


def _bounds(
    probes: Sequence[tuple[int, float]], scripts: Sequence[Script], sizes: Sequence[NDArray[np.int64]]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Above the peaks of all probes, by phase and by what memory is for."""
    rounded = [-(-each // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES for each in sizes]
    found: list[dict[str, dict[str, int]]] = []
    for script, each in zip(scripts, rounded, strict=True):
        found.append({phase: script.parts_at(at, each) for phase, at in script.peaks(each).items()})
    bounds: dict[str, dict[str, NDArray[np.float64]]] = {}
    for phase in _union(found):
        parts = [peaks.get(phase, {}) for peaks in found]
        bounds[phase] = {
            part: UNALIGNED_MARGIN
            * fit_above(probes, np.array([each.get(part, 0) for each in parts], dtype=np.float64))
            for part in _union(parts)
        }
    return bounds


def _union(dictionaries: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for each in dictionaries for key in each))
