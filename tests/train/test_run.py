"""Training runs: they learn, stop, go on bit for bit, and refuse what does not belong together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from myna.config import Config, load_config
from myna.errors import TrainingError, VersionError
from myna.train.run import resumed_config, train

TINY = [
    "data.min_duration_seconds=0.1",
    "model.d_model=48",
    "model.num_encoder_layers=2",
    "model.d_ff=96",
    "model.conv_kernel_size=7",
    "training.per_device_train_batch_size=4",
    "training.learning_rate=3e-3",
    "training.logging_steps=1",
    "training.dataloader_num_workers=0",
]


def tiny(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def quiet() -> Console:
    return Console(quiet=True)


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_a_tiny_model_learns_and_leaves_a_whole_run(tone_catalog, tmp_path):
    run = tmp_path / "run"
    result = train(tiny(tone_catalog, run, "training.num_train_epochs=14"), console=quiet())
    assert result.best_metric < 0.2
    assert (run / "best" / "model.safetensors").is_file()
    assert (run / "last").resolve().name == f"checkpoint-{result.steps}"
    assert json.loads((run / "best" / "myna.json").read_text())["dataset_version"] == result.dataset_version
    assert json.loads((run / "result.json").read_text())["steps"] == result.steps
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".yaml"}  # and so nothing pickled


@pytest.mark.slow
def test_killed_and_resumed_gives_the_losses_of_the_uninterrupted_run(tone_catalog, tmp_path):
    settings = ["training.num_train_epochs=3", "training.save_strategy=steps", "training.save_steps=5"]
    whole = tmp_path / "whole"
    train(tiny(tone_catalog, whole, *settings), console=quiet())
    killed = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-m", "myna", "train", *TINY, *settings]
    command += [f"data.db={tone_catalog}", f"training.output_dir={killed}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: (killed / "checkpoint-5").is_dir() and len(losses(killed)) >= 7, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    train(resumed_config(str(killed)), resume=str(killed), console=quiet())
    assert losses(killed) == losses(whole)
    weights = [run / "last" / "model.safetensors" for run in (whole, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def wait_for(condition, process: subprocess.Popen, timeout_seconds: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_the_group_saves_and_stops_and_resume_goes_on(tone_catalog, tmp_path, number):
    """What Ctrl-C in a terminal does: trainer and loader processes all get it."""
    run = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "myna", "train", "--json", *TINY, "training.num_train_epochs=40"]
    command += [f"data.db={tone_catalog}", f"training.output_dir={run}", "training.dataloader_num_workers=1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(losses(run)) >= 3, process)
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    stopped = json.loads(stdout)
    assert stopped["stopped_early"]
    assert (run / "last").resolve().name == f"checkpoint-{stopped['steps']}"
    limit = f"training.max_steps={stopped['steps'] + 2}"
    resumed = train(resumed_config(str(run), [limit]), resume=str(run), console=quiet())
    assert resumed.steps == stopped["steps"] + 2


def test_a_taken_folder_is_refused(tone_catalog, tmp_path):
    (tmp_path / "something").write_text("")
    with pytest.raises(TrainingError, match="expected a new or empty folder"):
        train(tiny(tone_catalog, tmp_path), console=quiet())


def test_resuming_on_another_dataset_version_is_refused(tone_catalog, tmp_path):
    (tmp_path / "config.yaml").write_text(tiny(tone_catalog, tmp_path).to_yaml())
    (tmp_path / "dataset.json").write_text(json.dumps({"dataset_version": "0123456789abcdef"}))
    with pytest.raises(VersionError, match="bound to"):
        train(resumed_config(str(tmp_path), ["data.version=fedcba"]), resume=str(tmp_path), console=quiet())
    with pytest.raises(VersionError):  # the catalog no longer has it
        train(resumed_config(str(tmp_path)), resume=str(tmp_path), console=quiet())


def test_resuming_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"config\.yaml"):
        resumed_config(str(tmp_path))
