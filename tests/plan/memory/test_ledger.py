from __future__ import annotations

import gc

import numpy as np
import torch
from torch import nn

from myna.plan.memory.ledger import (
    ACTIVATIONS,
    GRADIENTS,
    OPTIMIZER_STATE,
    PARAMETERS,
    TEMPORARIES,
    Ledger,
    LedgerMode,
    with_second_step,
)


def ledger(order: list[int], sizes: list[int], marks: tuple[tuple[int, str], ...] = ()) -> Ledger:
    return Ledger(
        clips=1,
        seconds=1.0,
        order=np.array(order),
        sizes=np.array([0, *sizes]),
        kinds=np.zeros(len(sizes) + 1, dtype=np.uint8),
        makers=np.zeros(len(sizes) + 1, dtype=np.int64),
        marks=marks,
        parameters=0,
        trainable=0,
        flop_terms=np.array([[0, 3], [0, 4]]),
    )


def test_births_and_deaths_of_storages_are_entered_and_views_are_not() -> None:
    mode = LedgerMode(on_fakes=False)
    with mode:
        a = torch.zeros(10)  # 40 bytes
        b = a.view(2, 5)[1]
        c = b + 1  # 20 bytes
        del a
        d = c.double()  # 40 bytes
        del b, c, d
    found = mode.ledger(1, 1.0, 0, 0)
    assert found.order.tolist() == [1, 2, 3, -1, -2, -3]
    assert found.sizes.tolist() == [0, 40, 20, 40]
    assert found.peak() == 100
    assert found.peak(block=512) == 3 * 512


def test_kinds_tell_what_storages_are_for() -> None:
    linear = nn.Linear(4, 4, bias=False)
    mode = LedgerMode(on_fakes=False)
    with mode:
        mode.note(linear.parameters(), PARAMETERS)
        mode.mark("forward")
        loss = linear(torch.ones(2, 4)).square().sum()
        mode.mark("backward")
        loss.backward()
        mode.note([linear.weight.grad], GRADIENTS)
    found = mode.ledger(1, 1.0, 16, 16)
    by_kind = {kind: found.sizes[found.kinds == kind].sum() for kind in (PARAMETERS, GRADIENTS)}
    assert by_kind == {PARAMETERS: 64, GRADIENTS: 64}
    assert set(found.kinds[1:]) == {PARAMETERS, GRADIENTS, ACTIVATIONS, TEMPORARIES}
    assert [phase for _, phase in found.marks] == ["forward", "backward"]
    assert found.marks[0][0] == 1


def test_deaths_in_a_row_are_sorted() -> None:
    mode = LedgerMode(on_fakes=False)
    with mode:
        tensors = [torch.zeros(1) for _ in range(4)]
        for index in (2, 0, 3, 1):
            tensors[index] = None  # type: ignore[call-overload]
    assert mode.ledger(1, 1.0, 0, 0).order.tolist() == [1, 2, 3, 4, -1, -2, -3, -4]


def test_second_step_repeats_the_first_without_what_outlived_it() -> None:
    # 1: weights. The step: 2 an activation, 3 a gradient, 4 optimizer state that stays.
    first = ledger([1, 2, 3, -2, 4, -3], [100, 10, 20, 40], ((1, "forward"), (2, "backward"), (4, "optimizer")))
    both = with_second_step(first, start=1)
    assert both.order.tolist() == [1, 2, 3, -2, 4, -3, 5, 6, -5, -6]
    assert both.sizes.tolist() == [0, 100, 10, 20, 40, 10, 20]
    assert both.marks == (*first.marks, (6, "forward"), (7, "backward"), (9, "optimizer"))
    assert both.step_start == 6
    assert both.peak() == 170
    assert both.flops == 7


def test_second_step_is_what_a_second_step_does() -> None:
    def ledger_of(steps: int) -> tuple[Ledger, int]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        mode = LedgerMode(on_fakes=False)
        gc.collect()
        with mode:
            mode.note(model.parameters(), PARAMETERS)
            x = torch.ones(3, 8)
            start = mode.position
            for _ in range(steps):
                mode.mark("forward")
                loss = model(x).sum()
                loss.backward()
                del loss
                mode.mark("optimizer")
                optimizer.step()
                state = [value for values in optimizer.state.values() for value in values.values()]
                mode.note(state, OPTIMIZER_STATE)
                del state
                optimizer.zero_grad()
            return mode.ledger(1, 1.0, 0, 0), start

    once, start = ledger_of(1)
    twice, _ = ledger_of(2)
    predicted = with_second_step(once, start)
    assert predicted.order.tolist() == twice.order.tolist()
    assert predicted.sizes.tolist() == twice.sizes.tolist()
    assert predicted.marks == twice.marks
