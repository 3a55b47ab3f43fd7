from __future__ import annotations

import json
import subprocess
import sys

import pytest
from plan_specs import wav2vec2

from myna.plan.memory.fit import FittedMemory
from myna.plan.memory.worker import CANNOT_TRACE
from myna.plan.request import MemoryRequest, ModelSpec, StepSettings

pytestmark = pytest.mark.slow


def answer(request: MemoryRequest) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "myna.plan.memory.worker"],
        input=json.dumps(request.to_json()).encode(),
        capture_output=True,
        timeout=300,
    )


def test_the_worker_plans_a_cuda_step_without_cuda() -> None:
    spec = wav2vec2(config={"num_hidden_layers": 6})
    plain, lean = (
        MemoryRequest(spec, StepSettings(precision="fp16", gradient_checkpointing=lean, front_end_by_clip=lean))
        for lean in (False, True)
    )
    models = [FittedMemory.from_bytes(answer(request).stdout) for request in (plain, lean)]
    assert [model.request for model in models] == [plain, lean]
    assert all(model.exact for model in models)
    at_plain, at_lean = (model.peak(16, 20.0) for model in models)
    assert at_lean.bytes < 0.5 * at_plain.bytes
    assert at_plain.parts["parameters"] == pytest.approx(4 * models[0].parameters, rel=0.1)  # in blocks of 512 bytes
    assert at_plain.parts["autocast_copies"] > 0


def test_what_cannot_be_traced_is_said_in_one_line() -> None:
    done = answer(MemoryRequest(ModelSpec("no_such_module:Model", "no_such_module:Config", {})))
    assert done.returncode == CANNOT_TRACE
    assert done.stdout == b""
    assert done.stderr.decode().strip().splitlines()[-1].startswith("expected a class as module:name")
