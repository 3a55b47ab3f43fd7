from __future__ import annotations

from dataclasses import replace
from functools import partial

from plan_cases import GB, FormulaMemory, model

from myna.plan.memory.stretched import stretched
from myna.plan.request import MemoryRequest

REQUEST = MemoryRequest(model().spec)


def test_training_is_asked_at_the_length_that_clips_may_get():
    longer, plain = stretched(FormulaMemory, 1.25, REQUEST), FormulaMemory(REQUEST)
    assert longer.peak(2, 8).bytes == plain.peak(2, 10).bytes
    assert longer.reserved(1, 4, [(2, 8)]) == plain.peak(2, 10).bytes
    limit = plain.peak(2, 10).bytes
    assert longer.fits(2, 8, limit) and not longer.fits(2, 8, limit - 1)
    assert not longer.fits(1, 1, limit, [(2, 8.1)])
    assert longer.largest_batch(8, 10 * GB) == plain.largest_batch(10, 10 * GB)


def test_evaluation_and_plain_clips_are_asked_as_they_are():
    ask = partial(stretched, FormulaMemory)
    assert type(ask(1.0, REQUEST)) is FormulaMemory
    assert type(ask(1.25, replace(REQUEST, activity="evaluate"))) is FormulaMemory
