"""Every trace is held against the real step on the CPU, its tensors entered in the same kind of ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plan_specs import SPECS, pretraining, wav2vec2

from myna.errors import ModelError
from myna.plan.memory.ledger import (
    AUTOCAST_COPIES,
    GRADIENTS,
    KINDS,
    OPTIMIZER_STATE,
    PARAMETERS,
    SCRATCH,
    Ledger,
)
from myna.plan.memory.step import measure, trace
from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec, StepSettings

TOLERANCE = 0.005


def request(
    model: ModelSpec, teacher: ModelSpec | None = None, activity: Any = "train", **settings: Any
) -> MemoryRequest:
    return MemoryRequest(
        model, StepSettings(device="cpu", **settings), teacher=teacher, activity=activity, labels_per_second=5.0
    )


def tensor_peak(ledger: Ledger) -> int:
    """Without what kernels take for themselves, which no real ledger sees."""
    sizes = np.where(ledger.kinds == SCRATCH, 0, ledger.sizes)
    return int(np.cumsum(np.sign(ledger.order) * sizes[np.abs(ledger.order)]).max())


def bytes_of(ledger: Ledger, kind: int) -> int:
    return int(ledger.sizes[ledger.kinds == kind].sum())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", SPECS)
@pytest.mark.parametrize(
    "settings", [{}, {"precision": "bf16", "gradient_checkpointing": True, "accumulates": True}], ids=["plain", "lean"]
)
def test_a_trace_peaks_where_the_real_step_does(family: str, settings: dict[str, Any]) -> None:
    asked = request(SPECS[family], **settings)
    assert tensor_peak(trace(asked, 3, 4.0)) == pytest.approx(tensor_peak(measure(asked, 3, 4.0)), rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "asked",
    [
        request(SPECS["wav2vec2"], front_end_by_clip=True),
        request(SPECS["conformer"], optimizer="adamw_torch", max_grad_norm=0.0),
        request(SPECS["transformer"], optimizer="adafactor"),
        request(SPECS["transformer"], optimizer="adamw_8bit"),
        request(SPECS["wav2vec2"], teacher=SPECS["hubert"], precision="bf16"),
        request(SPECS["whisper"], teacher=SPECS["whisper"], gradient_checkpointing=True),
        request(SPECS["conformer"], activity="evaluate", precision="bf16"),
        request(SPECS["whisper"], activity="evaluate"),
        request(SPECS["moonshine"], activity="evaluate", precision="bf16"),
        request(pretraining("conformer"), precision="bf16", gradient_checkpointing=True),
        request(pretraining("transformer"), activity="evaluate"),
        request(pretraining("wav2vec2")),
        request(wav2vec2(lora=LoraSpec(4))),
        request(wav2vec2(lora=LoraSpec(4), quantized=True), precision="bf16"),
    ],
    ids=lambda asked: f"{asked.model.model_class.rpartition(':')[2]}-{asked.activity}-{asked.settings.optimizer}",
)
def test_other_ways_to_train_and_evaluate_peak_as_the_real_ones(asked: MemoryRequest) -> None:
    assert tensor_peak(trace(asked, 3, 4.0)) == pytest.approx(tensor_peak(measure(asked, 3, 4.0)), rel=TOLERANCE)


def test_parts_are_what_the_model_and_optimizer_need() -> None:
    ledger = trace(request(SPECS["transformer"]), 2, 3.0)
    assert bytes_of(ledger, PARAMETERS) == 4 * ledger.parameters
    assert bytes_of(ledger, GRADIENTS) == 2 * 4 * ledger.trainable  # in two steps
    state = bytes_of(ledger, OPTIMIZER_STATE)
    assert 0 <= state - 8 * ledger.trainable < 1000  # two moments, and a count of steps for each parameter
    assert ledger.parameters == ledger.trainable
    assert {phase for _, phase in ledger.marks} == {"forward", "backward", "optimizer"}


def test_a_teacher_adds_its_weights_and_neither_gradients_nor_states() -> None:
    alone = trace(request(SPECS["conformer"]), 2, 3.0)
    taught = trace(request(SPECS["conformer"], teacher=SPECS["conformer"]), 2, 3.0)
    assert bytes_of(taught, PARAMETERS) == 2 * bytes_of(alone, PARAMETERS)
    for kind in (GRADIENTS, OPTIMIZER_STATE):
        assert bytes_of(taught, kind) == bytes_of(alone, kind)
    assert 1.2 < taught.flops / alone.flops < 1.4  # a forward pass more
    assert tensor_peak(taught) > tensor_peak(alone) + 4 * alone.parameters


def test_autocast_copies_are_half_the_size_of_the_weights_they_copy() -> None:
    ledger = trace(request(SPECS["transformer"], precision="bf16"), 2, 3.0)
    copied = bytes_of(ledger, AUTOCAST_COPIES) // 2  # of one step
    assert 0.4 * 4 * ledger.parameters < copied < 0.5 * 4 * ledger.parameters
    assert KINDS[AUTOCAST_COPIES] == "autocast_copies"


def test_flops_are_those_of_the_matrix_products() -> None:
    short, long = (trace(request(SPECS["transformer"]), 2, seconds) for seconds in (4.0, 8.0))
    assert 2 < long.flops / short.flops < 2.5  # attention grows faster than the clip
    checkpointed = trace(request(SPECS["transformer"], gradient_checkpointing=True), 2, 4.0)
    assert 1.05 < checkpointed.flops / short.flops < 4 / 3  # the layers' forward once more


def test_the_order_of_events_does_not_depend_on_the_batch() -> None:
    asked = request(SPECS["wav2vec2"], front_end_by_clip=True)
    first, second = trace(asked, 2, 3.0), trace(asked, 5, 7.3)
    assert first.order.tolist() == second.order.tolist()
    assert first.kinds.tolist() == second.kinds.tolist()


def test_a_class_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelError, match="no_such_module"):
        trace(request(ModelSpec("no_such_module:Model", "no_such_module:Config", {})), 2, 3.0)


def test_a_whisper_that_teaches_hears_its_whole_window() -> None:
    """Its share of the work does not depend on what the student hears."""
    alone = replace(request(SPECS["whisper"]), labels_per_second=0.05)  # two labels, whatever the length
    taught = replace(alone, teacher=SPECS["whisper"])
    shares = [trace(taught, 2, seconds).flops - trace(alone, 2, seconds).flops for seconds in (4.0, 30.0)]
    assert shares[0] == shares[1] > trace(alone, 2, 4.0).flops
