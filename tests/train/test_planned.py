from __future__ import annotations

import json
from pathlib import Path

import pytest
from plan_cases import card
from rich.console import Console

from myna.config import load_config
from myna.plan.choices.schedule import data_choices
from myna.plan.profiles.dataset import DatasetProfile
from myna.train.planned import _share_of_this_rank
from myna.train.run import train, training_arguments

DATA = DatasetProfile.from_durations([1.0, 2.0])


def workers(monkeypatch, ranks: int, ranks_here: int, **fields) -> int:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks_here))
    return data_choices(_share_of_this_rank(card(cpu_cores=33.0, **fields)), DATA)["dataloader_num_workers"].value


@pytest.mark.parametrize(("ranks", "ranks_here"), [(8, 8), (16, 8)])
def test_each_rank_gets_its_share_of_the_cores_once(monkeypatch, ranks, ranks_here):
    """33 cores for eight cards: four each, on one machine and on two."""
    assert workers(monkeypatch, ranks, ranks_here) == 4


def test_ranks_without_cards_share_the_cores_too(monkeypatch):
    assert workers(monkeypatch, 8, 8, gpu_count=0) == 3  # 4.125, one of them the trainer's


def test_the_optimizer_and_compilation_reach_the_trainer():
    fixed = ["training.bf16=false", "training.fp16=false", "training.dataloader_num_workers=0"]
    fixed += [f"training.{key}=1" for key in ("per_device_train_batch_size", "per_device_eval_batch_size")]
    fixed += ["training.gradient_accumulation_steps=1"]
    unplanned = training_arguments(load_config([], fixed))
    assert (unplanned.optim, unplanned.torch_compile) == ("adamw_torch_fused", False)
    assert training_arguments(load_config([], [*fixed, "training.optim=adamw_torch"])).optim == "adamw_torch"


@pytest.mark.slow
def test_bf16_on_a_processor_gives_nearly_the_same_losses(tone_catalog: Path, tmp_path: Path):
    """Not quite the same ones: it is really on."""
    losses = {}
    for precision in ("bf16", "fp32"):
        run = tmp_path / precision
        sizes = [f"model.{size}" for size in ("d_model=16", "num_encoder_layers=1", "num_heads=2", "d_ff=16")]
        settings = [
            *(f"data.db={tone_catalog}", f"training.output_dir={run}", f"training.bf16={precision == 'bf16'}"),
            *("training.max_steps=3", "training.logging_steps=1", "training.eval_strategy=no", "model.dropout=0"),
            *("training.dataloader_num_workers=0", "training.effective_batch_size=8", "training.fp16=false"),
        ]
        train(load_config([], [*sizes, *settings]), console=Console(quiet=True))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[precision] = [line["loss"] for line in lines if "loss" in line]
        step = json.loads((run / "plan.json").read_text())["step"]
        assert (step["precision"], step["optimizer"]) == (precision, "adamw_torch_fused")
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]
