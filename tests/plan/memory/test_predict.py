from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pytest

from myna.errors import ModelError
from myna.models.transformer import TransformerConfig
from myna.plan.memory.predict import memory_model
from myna.plan.request import MemoryRequest, ModelSpec, StepSettings

CONFIG = json.loads(TransformerConfig(d_model=64, num_encoder_layers=1, d_ff=128).to_json_string(use_diff=False))
SPEC = ModelSpec(
    "myna.models.transformer:TransformerForCTC", "myna.models.transformer:TransformerConfig", CONFIG, "toy"
)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_step_is_traced_once(device, caplog):
    request = MemoryRequest(SPEC, StepSettings(device=device))
    model = memory_model(request)
    assert model.exact
    assert model.request == request
    assert model.largest_batch(10.0, 1 << 30) > model.largest_batch(20.0, 1 << 30) > 0
    assert memory_model(MemoryRequest.from_json(request.to_json())) is model
    assert caplog.records == []


@pytest.mark.slow
def test_what_cannot_be_traced_is_bounded_after_one_warning(caplog):
    request = MemoryRequest(replace(SPEC, model_class="myna.models.transformer:Missing"))
    with caplog.at_level(logging.WARNING):
        model = memory_model(request)
        assert memory_model(request) is model
    assert not model.exact
    (record,) = caplog.records
    assert "toy" in record.getMessage()
    assert "Missing" in record.getMessage()


@pytest.mark.slow
def test_without_trace_and_formula_both_reasons_are_given():
    request = MemoryRequest(ModelSpec("nowhere:Model", "nowhere:Config", {"model_type": "unheard-of"}))
    with pytest.raises(ModelError, match=r"nowhere.*unheard-of"):
        memory_model(request)


def test_a_worker_that_is_too_slow_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr("myna.plan.memory.predict.TIMEOUT_SECONDS", 0.01)
    assert not memory_model(MemoryRequest(SPEC, labels_per_second=3.0)).exact
    assert "longer than 0.01 s" in caplog.text


def test_asking_needs_no_torch():
    code = "import sys, myna.plan.memory.predict, myna.plan.memory.closed_formula; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
