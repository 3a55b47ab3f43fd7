"""Runs with a teacher: they go on bit for bit, save an ordinary student, and refuse a teacher that does not fit."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from myna.config import Config, load_config
from myna.errors import ModelError
from myna.models.build import load_recognizer
from myna.train.run import resumed_config, train

TINY = [
    "data.min_duration_seconds=0.1",
    "model.d_model=48",
    "model.num_encoder_layers=3",
    "model.d_ff=96",
    "model.conv_kernel_size=7",
    "training.per_device_train_batch_size=4",
    "training.learning_rate=3e-3",
    "training.logging_steps=1",
    "training.dataloader_num_workers=0",
    "training.eval_strategy=no",
]
RHYTHM = ["training.save_strategy=steps", "training.save_steps=7", "training.save_total_limit=9"]


def config_of(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def said_by(config: Config, **options: str) -> str:
    shown = io.StringIO()
    train(config, console=Console(file=shown, width=1000), **options)
    return shown.getvalue()


@pytest.fixture(scope="module")
def teacher(tone_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned a little."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    train(config_of(tone_catalog, run, "training.num_train_epochs=2"), console=Console(quiet=True))
    return run


@pytest.mark.slow
def test_a_run_with_a_teacher(tone_catalog, tmp_path, teacher):
    """Says what it does, plans it, saves the student alone, and resumes exactly though what was said is gone."""
    settings = [f"model.pretrained={teacher}", "model.keep_encoder_layers=2", "distillation.teacher=self"]
    run = tmp_path / "run"
    epochs = "training.num_train_epochs=2"
    said = said_by(config_of(tone_catalog, run, *settings, *RHYTHM, epochs))
    assert re.search(
        r"Teacher: self, 0.\d M parameters, alpha 0.5, temperature 2; it is asked about each clip once", said
    )
    first, *_, last = losses(run).values()
    assert last < first
    plan = json.loads((run / "plan.json").read_text())
    assert "and its forward pass are in every prediction" in plan["reasons"]["teacher"]
    student = load_recognizer(run)
    assert student.model.config.num_encoder_layers == 2
    assert Path(student.metadata["teacher"]).parent == teacher.resolve()
    names = load_file(run / "last" / "model.safetensors").keys()
    assert names == student.model.state_dict().keys()

    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped, symlinks=True)
    for checkpoint in stopped.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-7":  # in the first epoch: what was said before it must be asked again
            shutil.rmtree(checkpoint)
    (stopped / "metrics.jsonl").write_text("")
    train(resumed_config(str(stopped)), resume=str(stopped), console=Console(quiet=True))
    whole, again = losses(run), losses(stopped)
    assert again == {step: loss for step, loss in whole.items() if step > 7}
    weights = [folder / "last" / "model.safetensors" for folder in (run, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_alpha_0_is_the_run_without_a_teacher(tone_catalog, tmp_path, teacher):
    plain, taught = tmp_path / "plain", tmp_path / "taught"
    steps = "training.max_steps=4"
    train(config_of(tone_catalog, plain, steps), console=Console(quiet=True))
    settings = [f"distillation.teacher={teacher}", "distillation.alpha=0", "augment=[]"]
    train(config_of(tone_catalog, taught, steps, *settings), console=Console(quiet=True))
    assert losses(plain) == losses(taught)
    weights = [folder / "last" / "model.safetensors" for folder in (plain, taught)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_with_the_teacher_it_began_with(tone_catalog, tmp_path, teacher):
    changed, run = tmp_path / "changed", tmp_path / "run"
    shutil.copytree((teacher / "last").resolve(), changed)
    settings = [f"distillation.teacher={changed}", "augment=[{type: noise}]", "training.max_steps=1"]
    said = said_by(config_of(tone_catalog, run, *settings))
    assert "it is asked in every step, since augmentation changes what it hears" in said
    weights = load_file(changed / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, changed / "model.safetensors")
    with pytest.raises(ModelError, match="expected the teacher with digest"):
        train(resumed_config(str(run)), resume=str(run), console=Console(quiet=True))


@pytest.mark.slow
def test_a_teacher_of_other_tokens_is_refused_before_a_run_begins(tone_catalog, tmp_path, teacher):
    run = tmp_path / "run"
    settings = [f"distillation.teacher={teacher}", "tokenizer.kind=bpe", "tokenizer.vocab_size=16"]
    with pytest.raises(ModelError, match="differs in vocabulary") as error:
        train(config_of(tone_catalog, run, *settings), console=Console(quiet=True))
    assert "model.keep_encoder_layers" in error.value.remedy
    assert not run.exists()
