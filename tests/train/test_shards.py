"""Runs whose parameters are spread over ranks end as others do, and leave the same whole checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from out_of_memory import TINY
from rich.console import Console
from safetensors.torch import load_file

from myna.config import load_config
from myna.errors import TrainingError
from myna.train.run import resumed_config, train

SCRIPT = Path(__file__).parents[1] / "out_of_memory.py"
STEPS = ["training.max_steps=8", "training.eval_strategy=steps", "training.eval_steps=4", "training.save_total_limit=9"]
STEPS += ["training.save_strategy=steps", "training.save_steps=4", "training.per_device_train_batch_size=2"]
NEAR = 1e-5
FAILS_AT = 5  # steps done by then


def spread(*given: str, every: int = 0, fails: bool = False) -> str:
    """What two ranks said of a run; with `every`, the second runs out of memory."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [sys.executable, "-W", "ignore", *launcher, str(SCRIPT), str(every), "1", *given]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode != 0) is fails, done.stderr[-6000:]
    return done.stderr


def assert_alike(run: Path, other: Path) -> None:
    """The last checkpoints hold the same weights and optimizer state, and the same was logged."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        here, there = load_file(run / "last" / file), load_file(other / "last" / file)
        assert here.keys() == there.keys()
        for name, value in here.items():
            assert float((value - there[name]).abs().max()) <= NEAR, name
    states = [json.loads((folder / "last" / "training_state.json").read_text()) for folder in (run, other)]
    assert states[0] == states[1]
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (run, other)
    ]
    for name in ("loss", "grad_norm", "eval_loss", "eval_cer"):
        found = [{row["step"]: row[name] for row in kind if name in row} for kind in rows]
        assert found[0] == pytest.approx(found[1], rel=NEAR)


def forget_the_end(run: Path) -> None:
    shutil.rmtree(run / "checkpoint-8")


@pytest.fixture(scope="module")
def alone(tone_catalog, tmp_path_factory) -> Path:
    """An undisturbed run on one rank."""
    run = tmp_path_factory.mktemp("alone") / "run"
    more = ["training.gradient_accumulation_steps=2", f"data.db={tone_catalog}", f"training.output_dir={run}"]
    train(load_config([], [*TINY, *STEPS, *more]), console=Console(quiet=True))
    return run


@pytest.mark.slow
def test_a_run_that_is_spread_over_ranks_ends_as_one_alone_and_goes_on_as_one(tone_catalog, tmp_path, alone):
    run = tmp_path / "run"
    more = ["training.gradient_accumulation_steps=1", f"data.db={tone_catalog}", f"training.output_dir={run}"]
    spread(*STEPS, *more, "training.fsdp=true")
    assert_alike(run, alone)
    forget_the_end(run)
    train(resumed_config(str(run), ["training.fsdp=false"]), resume=str(run), console=Console(quiet=True))
    assert_alike(run, alone)


@pytest.mark.slow
def test_memory_that_runs_out_on_a_rank_ends_all_and_leaves_what_to_go_on_from(tmp_path, alone):
    run = tmp_path / "run"
    shutil.copytree(alone, run, symlinks=True)
    forget_the_end(run)
    said = spread(f"resume={run}", "training.fsdp=true", "training.save_steps=1", every=FAILS_AT, fails=True)
    assert "TrainingError: out of memory in the backward pass" in said
    assert "with training.fsdp a step is not retried" in said
    assert f"step {FAILS_AT + 1}: expected all ranks; another has ended within it" in said
    assert (run / "last").resolve().name == f"checkpoint-{FAILS_AT}"
    spread(f"resume={run}")
    assert_alike(run, alone)


def test_one_rank_has_nothing_to_spread_over(tmp_path):
    with pytest.raises(TrainingError, match="expected several ranks"):
        train(load_config([], ["training.fsdp=true", f"training.output_dir={tmp_path}/run"]))
