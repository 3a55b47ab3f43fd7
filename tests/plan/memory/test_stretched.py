from __future__ import annotations

from dataclasses import replace
from functools import partial

from plan_cases import GB, FormulaMemory, model

from myna.audio.augment.chain import Chain
from myna.audio.augment.edges import Edges
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.audio.augment.volume import Volume
from myna.plan.memory.stretched import stretched
from myna.plan.request import MemoryRequest

REQUEST = MemoryRequest(model().spec)
SLOWER = Speed(min_factor=0.8, max_factor=1)  # 1.25 times as long


def test_training_is_asked_at_the_length_that_clips_may_get():
    longer, plain = stretched(FormulaMemory, Chain([SLOWER]), REQUEST), FormulaMemory(REQUEST)
    assert longer.peak(2, 8).bytes == plain.peak(2, 10).bytes
    assert longer.reserved(1, 4, [(2, 8)]) == plain.peak(2, 10).bytes
    limit = plain.peak(2, 10).bytes
    assert longer.fits(2, 8, limit) and not longer.fits(2, 8, limit - 1)
    assert not longer.fits(1, 1, limit, [(2, 8.1)])
    assert longer.largest_batch(8, 10 * GB) == plain.largest_batch(10, 10 * GB)


def test_no_clip_gets_longer_than_the_model_takes():
    longer = stretched(FormulaMemory, Chain([SLOWER]), REQUEST, most_seconds=9.0)
    assert longer.peak(2, 8).bytes == FormulaMemory(REQUEST).peak(2, 9).bytes
    assert longer.reserved(1, 4, [(2, 8)]) == FormulaMemory(REQUEST).peak(2, 9).bytes


def test_evaluation_and_plain_clips_are_asked_as_they_are():
    ask = partial(stretched, FormulaMemory)
    assert type(ask(Chain([]), REQUEST)) is FormulaMemory
    assert type(ask(Chain([Volume(), SpecAugment(), Speed(min_factor=1)]), REQUEST)) is FormulaMemory
    assert type(ask(Chain([SLOWER]), replace(REQUEST, activity="evaluate"))) is FormulaMemory


def test_silence_at_the_edges_is_added_whatever_the_length():
    longer = stretched(FormulaMemory, Chain([SLOWER, Edges(max_silence_seconds=0.5)]), REQUEST)
    assert longer.peak(1, 8).bytes == FormulaMemory(REQUEST).peak(1, 11).bytes
    assert longer.peak(1, 4).bytes == FormulaMemory(REQUEST).peak(1, 6).bytes
