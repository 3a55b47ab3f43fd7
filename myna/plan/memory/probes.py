"""Ledgers of one step at several batch shapes, most of them from a copy of the model with few layers.

Tracing a deep model takes seconds, and its layers repeat. So the whole depth is traced at one shape, and a copy with
few layers at all of them: it shows what each size at the first shape becomes at the others. Where it does not explain
every size of the whole model, that is traced at every shape after all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.errors import ModelError
from myna.plan.memory.ledger import ACTIVATIONS, BATCH, SCRATCH, TEMPORARIES
from myna.plan.memory.step import trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from myna.plan.memory.ledger import Ledger
    from myna.plan.request import MemoryRequest, ModelSpec

LAYERS = 2  # of the shallow copy
WORTH_COPYING = 6  # layers
LAYER_COUNTS = (
    "num_hidden_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "encoder_num_hidden_layers",
    "decoder_num_hidden_layers",
)
BATCH_DEPENDENT = (ACTIVATIONS, TEMPORARIES, SCRATCH, BATCH)  # kinds; the others have the sizes of weights
SMALL_BYTES = 1 << 16  # such as the list of gradient norms, whose length is that of the model


_Key = tuple[int, int]  # operation, size


class _UnexplainedSizeError(Exception):
    """The shallow copy does not show what becomes of some size."""


def probe(request: MemoryRequest, shapes: Sequence[tuple[int, float]]) -> list[Ledger]:
    """A ledger for each (clips, seconds).

    Args:
        request: what to trace.
        shapes: the first should have a number of clips that is no factor of any width in a model, or two sizes that
            are equal there may be different elsewhere; then everything is traced in full.

    Raises:
        PlanningUnavailableError, ModelError: as `step.trace`.
    """
    whole = trace(request, *shapes[0])
    shallow = replace(
        request, model=_shallow(request.model), teacher=_shallow(request.teacher) if request.teacher else None
    )
    if shallow != request:
        try:
            first, *others = [trace(shallow, *shape) for shape in shapes]
            return [whole, *(_stretched(whole, first, other) for other in others)]
        except (ModelError, _UnexplainedSizeError):  # a frozen layer that the copy lacks, or layers unlike one another
            pass
    return [whole, *(trace(request, *shape) for shape in shapes[1:])]


def _shallow(spec: ModelSpec) -> ModelSpec:
    return replace(spec, config=_with_few_layers(spec.config))


def _with_few_layers(config: dict[str, Any]) -> dict[str, Any]:
    def changed(name: str, value: Any) -> Any:
        if isinstance(value, dict):  # of an encoder or decoder inside
            return _with_few_layers(value)
        return LAYERS if name in LAYER_COUNTS and isinstance(value, int) and value >= WORTH_COPYING else value

    return {name: changed(name, value) for name, value in config.items()}


def _stretched(whole: Ledger, first: Ledger, other: Ledger) -> Ledger:
    """The whole model's ledger at the shape of `other`.

    Args:
        whole: at the first shape.
        first: of the shallow copy at the first shape.
        other: of the shallow copy at the shape wanted.
    """
    if not np.array_equal(first.order, other.order) or not np.array_equal(first.kinds, other.kinds):
        raise _UnexplainedSizeError
    fates = _fates(_varying(first), other.sizes[np.isin(other.kinds, BATCH_DEPENDENT)])
    sizes = whole.sizes.copy()
    sizes[np.isin(whole.kinds, BATCH_DEPENDENT)] = [_fate(fates, key) for key in _varying(whole)]
    flop_fates = _fates([(maker, count) for maker, count in first.flop_terms.tolist()], other.flop_terms[:, 1])
    flop_terms = whole.flop_terms.copy()
    flop_terms[:, 1] = [_fate(flop_fates, (maker, count)) for maker, count in whole.flop_terms.tolist()]
    return replace(whole, clips=other.clips, seconds=other.seconds, sizes=sizes, flop_terms=flop_terms)


def _varying(ledger: Ledger) -> list[_Key]:
    """Who made each storage whose size may depend on the batch, and its size."""
    chosen = np.isin(ledger.kinds, BATCH_DEPENDENT)
    return list(zip(ledger.makers[chosen].tolist(), ledger.sizes[chosen].tolist(), strict=True))


def _fates(keys: Sequence[_Key], sizes: NDArray[np.int64]) -> dict[_Key, int]:
    """What becomes of each key's size, if it is always the same."""
    fates: dict[_Key, int] = {}
    for key, size in zip(keys, sizes.tolist(), strict=True):
        if fates.setdefault(key, size) != size:
            raise _UnexplainedSizeError
    return fates


def _fate(fates: dict[_Key, int], key: _Key) -> int:
    size = fates.get(key)
    if size is None and key[1] > SMALL_BYTES:
        raise _UnexplainedSizeError
    return key[1] if size is None else size
