"""The table of docs/models.md: every family with every method, checkpointing, precision, and on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from method_cases import FAMILIES, METHODS, RELATIVES, build_method, gradient_of, speech_batch, write_base

from myna.models.adapters import set_compute_dtype

# What a run's gradient scaler would find: a mean over clips has larger gradients than one over tokens.
SCALES = {"whisper": 2.0**14}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def bases(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in (*FAMILIES, *RELATIVES):
        write_base(folder / family, family, shared)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of WavLM in transformers
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_weight_gets_a_gradient_checkpointed_or_not(bases, family, method, precision):
    recognizer = build_method(bases / family, family, method)
    batch, dtype = speech_batch(recognizer), PRECISIONS[precision]
    scale = SCALES.get(family, 1.0) if precision == "fp16" else 1.0
    set_compute_dtype(recognizer.model, dtype)
    with torch.autocast("cpu", dtype, enabled=precision != "fp32"):
        plain = {name: value.clone() for name, value in gradient_of(recognizer, batch, scale).items()}
        assert plain
        for name, value in plain.items():
            # Attention's keys may all be moved by the same amount: no score changes by it.
            assert value.isfinite().all() and (value.any() or name.endswith("k_proj.bias")), name
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a name that releases deprecate
            recognizer.model.gradient_checkpointing_enable({"use_reentrant": False})
        checkpointed = gradient_of(recognizer, batch, scale)
    assert checkpointed.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("relative", RELATIVES)
def test_relatives_of_wav2vec2_learn_too(bases, relative, method):
    test_every_trained_weight_gets_a_gradient_checkpointed_or_not(bases, relative, method, "fp32")


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one(bases):
    script = Path(__file__).with_name("method_ranks.py")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, str(script), str(bases)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, spread = len(METHODS) * 2, 3 * 2  # checkpointed or not
    # Whisper in short context too, where nothing is spread; each with a teacher besides
    runs = (len(FAMILIES) + 1) * (whole + 1) + len(FAMILIES) * spread
    assert len(done.stdout.splitlines()) == runs
