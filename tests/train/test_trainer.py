"""An optimizer step is the mean over its utterances, however it is split."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from myna.train.trainer import SpeechTrainer

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


def best_after(*rows: tuple[int, float, float]) -> int | None:
    """The best step after evaluations (step, WER, loss), in the way the trainer logs and judges them."""
    trainer = object.__new__(SpeechTrainer)
    trainer.args = SimpleNamespace(metric_for_best_model="wer")
    trainer.state, trainer.control = TrainerState(), TrainerControl()
    for step, wer, loss in rows:
        metrics = {"eval_wer": wer, "eval_loss": loss}
        trainer.state.global_step = step
        trainer.state.log_history.append({"step": step, **metrics})
        trainer._determine_best_metric(metrics, None)
    return trainer.state.best_global_step


def test_the_lower_loss_decides_between_equal_scores():
    assert best_after((0, 0.30, 0.90), (9, 0.35, 0.85), (18, 0.30, 0.86)) == 18
    assert best_after((0, 0.30, 0.86), (9, 0.30, 0.90)) == 0
    assert best_after((0, 0.30, 0.90), (9, 0.29, 0.95), (18, 0.30, 0.10)) == 9
