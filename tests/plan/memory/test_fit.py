from __future__ import annotations

import numpy as np
import pytest

from myna.plan.memory.allocator import MIB
from myna.plan.memory.fit import BoundedMemory, FittedMemory, TracedMemory, fit_memory_model
from myna.plan.memory.ledger import ACTIVATIONS, BATCH, GRADIENTS, OPTIMIZER_STATE, PARAMETERS, Ledger
from myna.plan.memory.model import MemoryModel
from myna.plan.request import MemoryRequest, ModelSpec, StepSettings

PROBES = [(2, 5.0), (3, 12.0), (2, 28.0), (5, 19.0)]
SECOND = 512 * 1024  # bytes of an activation for a second of a clip


def request(device: str = "cuda") -> MemoryRequest:
    return MemoryRequest(ModelSpec("module:Model", "module:Config", {"layers": 2}), StepSettings(device=device))


def ledger(clips: int, seconds: float, *, weights: int = 30 * MIB, extra: bool = False) -> Ledger:
    """Two steps: weights (1), batch (2); activations (3, 7), gradients (4, 8), optimizer state (5) kept; (6) extra."""
    step = clips * seconds * SECOND
    sizes = [
        0,
        weights,
        clips * seconds * 64 * 1024,
        step,
        weights,
        2 * weights,
        step / 2 if extra else 0,
        step,
        weights,
    ]
    unusual = [6, -6] if extra else []
    order = [1, 2, 3, *unusual, 4, -3, 5, -4, 7, 8, -7, -8]
    later = len(unusual)
    marks = (
        (2, "forward"),
        (3 + later, "backward"),
        (5 + later, "optimizer"),
        (7 + later, "forward"),
        (8 + later, "backward"),
        (10 + later, "optimizer"),
    )
    kinds = [0, PARAMETERS, BATCH, ACTIVATIONS, GRADIENTS, OPTIMIZER_STATE, ACTIVATIONS, ACTIVATIONS, GRADIENTS]
    return Ledger(
        clips=clips,
        seconds=seconds,
        order=np.array(order),
        sizes=np.array(sizes, dtype=np.int64),
        kinds=np.array(kinds, dtype=np.uint8),
        makers=np.zeros(1, dtype=np.int64),
        marks=marks,
        parameters=weights // 4,
        trainable=weights // 4,
        flop_terms=np.array([[0, int(clips * seconds * 1e9)]]),
    )


def fitted(device: str = "cuda") -> MemoryModel:
    return fit_memory_model(request(device), PROBES, [ledger(*probe) for probe in PROBES])


@pytest.mark.parametrize(("clips", "seconds"), [(1, 8.0), (4, 10.0), (32, 20.0)])
def test_the_peak_of_a_batch_never_traced_is_exact(clips: int, seconds: float):
    peak = fitted().peak(clips, seconds)
    assert peak.bytes == ledger(clips, seconds).peak(512)
    assert peak.phase == "backward"
    assert sum(peak.parts.values()) == peak.bytes
    assert peak.parts["optimizer_state"] == 60 * MIB
    assert peak.parts["activations"] == clips * seconds * SECOND


def test_flops_grow_with_the_batch():
    assert fitted().flops(7, 3.0) == pytest.approx(21e9)


def test_reserved_is_what_torch_would_take():
    # 20 for the workspace, 30 weights, 60 state, 30 gradients, 8 x 10 activations of half a MiB; 5 of the batch lie
    # in the workspace's segment
    assert fitted().reserved(8, 10.0) == (20 + 30 + 60 + 30 + 40) * MIB


def test_fits_agrees_with_reserved():
    model = fitted()
    reserved = model.reserved(8, 10.0)
    assert model.fits(8, 10.0, reserved)
    assert not model.fits(8, 10.0, reserved - 1)


def test_the_largest_batch_fits_and_one_more_does_not():
    model, limit = fitted(), 600 * MIB
    clips = model.largest_batch(10.0, limit)
    assert model.fits(clips, 10.0, limit)
    assert not model.fits(clips + 1, 10.0, limit)
    assert 40 < clips < 82  # 460 MiB of 5.6 a clip would be 82, but the state lies where activations were
    assert model.largest_batch(10.0, limit, at_most=7) == 7
    assert model.largest_batch(10.0, 100 * MIB) == 0
    assert model.largest_batch(10.0, limit, at_most=0) == 0


def test_other_lengths_can_only_cost():
    model = fitted()
    alone = model.reserved(20, 10.0)
    assert model.reserved(20, 10.0, [(40, 5.0), (66, 3.0)]) >= alone
    assert not model.fits(20, 10.0, alone, [(50, 10.0)])
    assert model.largest_batch(10.0, 600 * MIB, shorter_seconds=(7.0, 4.0)) <= model.largest_batch(10.0, 600 * MIB)


def test_a_repeated_step_leaves_nothing_behind():
    model = fitted()
    assert model.reserved(20, 10.0, [(20, 10.0)] * 5) == model.reserved(20, 10.0)


def test_on_a_cpu_the_heap_counts_and_sizes_are_not_rounded():
    model = fitted("cpu")
    assert model.peak(3, 7.0).bytes == ledger(3, 7.0).peak()
    assert model.peak(3, 7.0).bytes <= model.reserved(3, 7.0)
    assert not model.fits(3, 7.0, model.reserved(3, 7.0) - 1)


@pytest.mark.parametrize("extra", [False, True])
def test_bytes_hold_the_whole_model(extra: bool):
    ledgers = [ledger(*probe, extra=extra and probe[0] == 2) for probe in PROBES]
    model = fit_memory_model(request(), PROBES, ledgers)
    again = FittedMemory.from_bytes(model.to_bytes())
    assert type(again) is type(model) is (BoundedMemory if extra else TracedMemory)
    assert (again.request, again.parameters, again.trainable) == (model.request, model.parameters, model.trainable)
    assert again.peak(6, 9.0) == model.peak(6, 9.0)
    assert again.reserved(6, 9.0) == model.reserved(6, 9.0)
    assert again.flops(6, 9.0) == model.flops(6, 9.0)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", fitted().to_bytes()[:200]])
def test_other_bytes_are_refused(content: bytes):
    with pytest.raises(ValueError, match="memory model"):
        FittedMemory.from_bytes(content)


def test_ledgers_that_go_other_ways_give_a_bound_above_them():
    ledgers = [ledger(*probe, extra=probe[0] == 2) for probe in PROBES]
    model = fit_memory_model(request(), PROBES, ledgers)
    assert not model.exact
    for each in ledgers:
        peak = model.peak(each.clips, each.seconds)
        assert each.peak(512) <= peak.bytes <= 1.5 * each.peak(512)
        assert model.reserved(each.clips, each.seconds) > peak.bytes
    assert model.largest_batch(10.0, 600 * MIB) < fitted().largest_batch(10.0, 600 * MIB)


def test_one_probe_that_goes_another_way_to_the_same_peak_does_no_harm():
    ledgers = [ledger(*probe, extra=probe == (3, 12.0)) for probe in PROBES]
    model = fit_memory_model(request(), PROBES, ledgers)
    assert model.exact
    assert model.peak(4, 10.0).bytes == ledger(4, 10.0).peak(512)


def test_sizes_that_follow_no_polynomial_give_a_bound():
    odd = [ledger(*probe, weights=weights * MIB) for probe, weights in zip(PROBES, (30, 90, 40, 150), strict=True)]
    model = fit_memory_model(request(), PROBES, odd)
    assert not model.exact
    assert all(model.peak(each.clips, each.seconds).bytes >= each.peak(512) for each in odd)
