"""Whole pre-training runs: from recordings without transcripts to a recogniser, resumed bit for bit, and planned."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from myna.config import Config, load_config
from myna.data.prepare import PrepareSettings, prepare
from myna.train.run import resumed_config, train

TINY = [
    "model.d_model=32",
    "model.num_encoder_layers=1",
    "model.num_heads=2",
    "model.d_ff=32",
    "model.conv_kernel_size=7",
    "training.per_device_train_batch_size=8",
    "training.learning_rate=3e-3",
    "training.logging_steps=1",
    "training.dataloader_num_workers=0",
]
OBJECTIVE = ["training.objective=pretrain", "training.metric_for_best_model=loss", "pretrain.mask_time_length=3"]
OBJECTIVE += ["pretrain.num_codevectors_per_group=8", "pretrain.codevector_dim=16", "pretrain.num_negatives=10"]


@pytest.fixture(scope="module")
def unlabelled(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of the tones whose manifest has no column of transcripts."""
    folder = tmp_path_factory.mktemp("unlabelled")
    with (tone_corpus / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "audio.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_path", "split"])
        writer.writerows((tone_corpus / row["file_path"], row["split"]) for row in rows if row["split"] != "test")
    prepare([folder / "audio.csv"], folder / "catalog.db", PrepareSettings(transcripts="optional"), workers=0)
    return folder / "catalog.db"


def config_of(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def logged(run: Path, *names: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("step", *names)} for row in rows if names[0] in row]


FIGURES = ("masked_accuracy", "codebook_perplexity")
VALIDATED = ("eval_loss", "eval_masked_accuracy", "eval_codebook_perplexity")


@pytest.mark.slow
def test_pretraining_learns_resumes_bit_for_bit_and_is_fine_tuned(unlabelled, tone_catalog, tmp_path):
    settings = [*OBJECTIVE, "training.num_train_epochs=2", "training.save_strategy=steps", "training.save_steps=4"]
    settings.append("training.save_total_limit=99")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(config_of(unlabelled, whole, *settings), console=Console(quiet=True))
    validated = logged(whole, *VALIDATED)
    assert validated[-1]["eval_loss"] < validated[0]["eval_loss"] < math.log(11)  # guessing among eleven
    assert len(validated) == 2 and result.best_metric == min(row["eval_loss"] for row in validated)
    assert all(2 <= row["eval_codebook_perplexity"] <= 16 for row in validated)
    assert all(0 <= row["eval_masked_accuracy"] <= 1 for row in validated)

    shutil.copytree(whole, stopped, symlinks=True)
    rewind(stopped, 4)  # in the midst of the first epoch
    again = train(resumed_config(str(stopped)), resume=str(stopped), console=Console(quiet=True))
    assert again.steps == result.steps
    assert logged(stopped, "loss", "grad_norm", *FIGURES) == logged(whole, "loss", "grad_norm", *FIGURES)
    assert logged(stopped, *VALIDATED) == validated
    weights = [run / "last" / "model.safetensors" for run in (whole, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    tuned = train(
        config_of(tone_catalog, tmp_path / "tuned", f"model.pretrained={whole}", "training.max_steps=2"),
        console=Console(quiet=True),
    )
    assert tuned.steps == 2 and "eval_wer" in (tmp_path / "tuned" / "metrics.jsonl").read_text()


def rewind(run: Path, step: int) -> None:
    """Leave the run as a kill would, with the checkpoint of `step` as its newest."""
    for link in ("best", "last"):
        (run / link).unlink(missing_ok=True)
    for checkpoint in run.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.slow
def test_a_step_in_several_micro_batches_is_the_step_in_one(unlabelled, tmp_path):
    """With dropout off; what a step masks is counted before any of it is scored."""
    rows = []
    for parts in (1, 4):
        split = ["feed.step_seconds=16", f"training.gradient_accumulation_steps={parts}", "model.dropout=0"]
        run = tmp_path / str(parts)
        more = ["training.max_steps=3", "training.eval_strategy=no", "training.per_device_train_batch_size=2"]
        train(config_of(unlabelled, run, *OBJECTIVE, *split, *more), console=Console(quiet=True))
        rows.append(logged(run, "loss", "grad_norm"))
    for one, several in zip(*rows, strict=True):
        assert several == pytest.approx(one, rel=1e-4)
