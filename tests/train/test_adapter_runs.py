"""Runs of adapters: they learn, are small, go on bit for bit, and are scored as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from method_cases import write_base
from rich.console import Console
from tiny_runs import LEARNS

from myna.config import Config, load_config
from myna.errors import ModelError
from myna.evaluate.run import evaluate
from myna.models.build import load_recognizer
from myna.train.run import resumed_config, train

TINY = [*LEARNS, "training.logging_steps=1"]
UNSCORED = ["training.eval_strategy=no"]
ADAPTED = ["adapter.rank=4", "adapter.target_modules=all", "training.learning_rates.head=1e-3"]


def config_of(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def quiet() -> Console:
    return Console(quiet=True)


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def base(tone_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned a little."""
    run = tmp_path_factory.mktemp("base") / "run"
    train(config_of(tone_catalog, run, "training.num_train_epochs=4"), console=quiet())
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_run_of_adapters(tone_catalog, tmp_path, base, kind):
    """It plans, learns, saves little, resumes exactly, and is loaded whole."""
    settings = [f"model.pretrained={base}", f"adapter.kind={kind}", *ADAPTED, "training.eval_on_start=true"]
    rhythm = ["training.save_strategy=steps", "training.save_steps=5", "training.save_total_limit=9"]
    whole = tmp_path / "whole"
    result = train(config_of(tone_catalog, whole, *settings, *rhythm, "training.num_train_epochs=2"), console=quiet())
    first, *_, last = losses(whole).values()
    assert last < first
    checkpoint = whole / "best"
    saved = sum(path.stat().st_size for path in checkpoint.iterdir() if path.name.startswith("adapter_"))
    assert saved < (base / "best" / "model.safetensors").stat().st_size / 4
    assert not (checkpoint / "model.safetensors").exists()
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["model"]["spec"]["lora"]["rank"] == 4
    assert plan["model"]["spec"]["quantized"] == (kind == "qlora")

    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped, symlinks=True)
    forget_after(stopped, 5)
    assert max(losses(stopped)) == 5
    train(resumed_config(str(stopped)), resume=str(stopped), console=quiet())
    assert losses(stopped) == losses(whole)
    weights = [run / "last" / "adapter_model.safetensors" for run in (whole, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    loaded = load_recognizer(whole)
    assert not hasattr(loaded.model, "peft_config")
    report = evaluate(str(whole), str(tone_catalog), split="valid")
    if kind == "lora":  # 4-bit weights are scored as they are in training, and in full precision afterwards
        assert report.wer == pytest.approx(result.best_metric)


def forget_after(run: Path, step: int) -> None:
    """As if the run had been killed right after a checkpoint."""
    for checkpoint in run.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row.get("step", 0) <= step]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


@pytest.mark.slow
def test_a_whisper_of_adapters_is_validated_merged(tone_catalog, tmp_path, shared):
    folder = write_base(tmp_path / "whisper", "whisper", shared)
    settings = ["model.family=whisper", f"model.pretrained={folder}", "model.language=es", "adapter.kind=lora"]
    settings += ["training.max_steps=1", "decode.max_new_tokens=3"]
    run = tmp_path / "run"
    result = train(config_of(tone_catalog, run, *settings), console=quiet())
    assert result.steps == 1
    report = evaluate(str(run), str(tone_catalog), split="valid")
    assert report.scores["utterances"] > 0


@pytest.mark.slow
def test_resuming_on_another_base_is_refused(tone_catalog, tmp_path, base):
    run = tmp_path / "run"
    settings = [f"model.pretrained={base}", "adapter.kind=lora", "training.max_steps=2", *UNSCORED]
    train(config_of(tone_catalog, run, *settings), console=quiet())
    other = tmp_path / "other"
    train(config_of(tone_catalog, other, "training.max_steps=1", *UNSCORED), console=quiet())
    with pytest.raises(ModelError, match="expected the base model with digest"):
        train(resumed_config(str(run), [f"model.pretrained={other}"]), resume=str(run), console=quiet())


@pytest.mark.slow
def test_parts_learn_at_their_own_rates(tone_catalog, tmp_path, base):
    """A head at a rate of nearly nothing stays."""
    run = tmp_path / "run"
    settings = [f"model.pretrained={base}", "training.max_steps=3", "training.weight_decay=0", *UNSCORED]
    train(config_of(tone_catalog, run, *settings, "training.learning_rates.head=1e-12"), console=quiet())
    before, after = load_recognizer(base).model, load_recognizer(run / "last").model
    assert (after.head.weight - before.head.weight).abs().max() < 1e-8
    assert (after.layers[0].attention.out.weight - before.layers[0].attention.out.weight).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_two_ranks_train_adapters_together(tone_catalog, tmp_path, base, kind):
    """The first losses of one rank: half of each step on each of two is as good."""
    settings = [*TINY, f"data.db={tone_catalog}", f"model.pretrained={base}", f"adapter.kind={kind}", *ADAPTED]
    settings += ["training.max_steps=2", *UNSCORED]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "myna", "train", *settings, f"training.output_dir={tmp_path / 'two'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = [f"training.output_dir={tmp_path / 'one'}", "training.per_device_train_batch_size=8"]
    train(load_config([], [*settings, *alone]), console=quiet())
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.1)  # dropout differs
