"""An optimizer step is the mean over its utterances, however it is split."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("gradient.py")
PYTHON = [sys.executable, "-W", "ignore"]
TORCHRUN = [*PYTHON, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


def gradient(catalog: Path, folder: Path, per_device: int, accumulation: int, ranks: int = 1) -> dict:
    out = folder / f"{ranks}x{accumulation}x{per_device}.safetensors"
    launcher = PYTHON if ranks == 1 else TORCHRUN
    command = [*launcher, str(SCRIPT), str(catalog), str(out), str(per_device), str(accumulation)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


@pytest.fixture(scope="module")
def whole_step(tone_catalog, tmp_path_factory) -> dict:
    return gradient(tone_catalog, tmp_path_factory.mktemp("whole"), 32, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("per_device", "accumulation", "ranks"), [(8, 4, 1), (4, 8, 1), (16, 1, 2)])
def test_gradient_does_not_depend_on_the_split(tone_catalog, tmp_path, whole_step, per_device, accumulation, ranks):
    split = gradient(tone_catalog, tmp_path, per_device, accumulation, ranks)
    assert split.keys() == whole_step.keys()
    for name, value in whole_step.items():
        assert float(value.norm()) > 1e-2  # there is a gradient to compare
        assert float((split[name] - value).norm() / value.norm()) <= 1e-5, name
