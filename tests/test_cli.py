"""The command line as a person uses it: exit statuses, one line for a mistake, one JSON object with --json."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from myna.cli.main import app

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


def myna(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "myna", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "150", **environment}
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    done = myna(command, "--help")
    assert done.returncode == 0
    assert f"Example: myna {command}" in done.stdout


def test_help_comes_at_once():
    """Processor seconds, which other work on the machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert myna("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_mistake_is_a_line_and_status_2(tmp_path):
    done = myna("train", "training.lerning_rate=1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean learning_rate?" in done.stderr
    assert "Traceback" not in done.stderr
    done = myna("stats", "--db", tmp_path / "none.db")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_resumed_run_takes_no_new_layers(tmp_path):
    done = myna("train", "--resume", tmp_path, "--config", "weak")
    assert done.returncode == 2
    assert "--config" in done.stderr


def test_a_fault_of_ours_is_status_1_and_asks_for_a_report():
    code = "import myna.cli.main as c; c.app = lambda: 1 / 0; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "please report" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_prepare_and_stats_tell_the_same(tone_corpus, tmp_path):
    db = tmp_path / "catalog.db"
    prepared = json.loads(myna("prepare", tone_corpus, "--db", db, "--json").stdout)
    assert prepared["splits"] == {"train": 64, "valid": 32, "test": 32}
    described = json.loads(myna("stats", "--db", db, prepared["version"][:6], "--json").stdout)
    assert described["version"]["version_id"] == prepared["version"]
    assert described["splits"]["train"]["utterances"] == 64
    shown = myna("stats", "--db", db).stdout
    assert prepared["version"] in shown
    assert "valid" in shown


def test_prepare_names_what_it_sets_aside_and_still_succeeds(tone_corpus, tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "a.wav").write_bytes(next(tone_corpus.glob("clips/ann_0.wav")).read_bytes())
    (tmp_path / "b.txt").write_text("abc")
    (tmp_path / "b.wav").write_text("not audio")
    done = myna("prepare", tmp_path, "--db", tmp_path / "catalog.db", COLUMNS="300")  # long paths are folded
    assert done.returncode == 0, done.stderr
    assert "unreadable" in done.stdout
    assert "b.wav" in done.stdout


@pytest.mark.slow
def test_from_files_to_text(tone_corpus, tmp_path):
    """The main job end to end, by the commands of the README."""
    db, run, out = tmp_path / "catalog.db", tmp_path / "run", tmp_path / "text"
    sizes = ["model.d_model=48", "model.num_encoder_layers=2", "model.d_ff=96", "model.conv_kernel_size=7"]
    assert myna("prepare", tone_corpus, "--db", db, *sizes).returncode == 0
    trained = myna(
        "train", "--json", *sizes, f"data.db={db}", f"training.output_dir={run}", "training.num_train_epochs=14",
        "training.per_device_train_batch_size=4", "training.learning_rate=3e-3",
        "training.report_to=[tensorboard,wandb]", WANDB_MODE="offline",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert len(trained.stdout.splitlines()) == 1
    assert list((run / "tensorboard").glob("events.*"))
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    evaluated = json.loads(myna("evaluate", run, "--db", db, "--json").stdout)
    assert evaluated["scores"]["normalized"]["wer"] < 0.25
    assert evaluated["trained_on"] == evaluated["evaluated_on"] == json.loads(trained.stdout)["dataset_version"]
    assert json.loads((run / "scores.json").read_text())["split"] == "test"
    done = myna("transcribe", run, tone_corpus / "clips", "--format", "txt,srt", "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(list(Path(out).rglob("*.srt"))) == 128
    alone = myna("transcribe", run, tone_corpus / "clips" / "dot_0.wav", "--beam-width", 4)
    assert set(alone.stdout.strip()) <= set("abcd ")


@pytest.mark.slow
def test_fine_tuning_starts_from_another_run(tone_catalog, tmp_path):
    sizes = ["model.d_model=48", "model.num_encoder_layers=2", "model.d_ff=96", "model.conv_kernel_size=7"]
    common = [f"data.db={tone_catalog}", "training.per_device_train_batch_size=4", *sizes]
    first, second = tmp_path / "first", tmp_path / "second"
    done = myna("train", *common, f"training.output_dir={first}", "training.num_train_epochs=8",
                "training.learning_rate=3e-3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = myna("train", "--json", *common, "--pretrained-model", first, f"training.output_dir={second}",
                "training.max_steps=1", "training.learning_rate=1e-5", "training.eval_on_start=true")  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = json.loads((first / "result.json").read_text())["best_metric"]
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    start = next(row["eval_wer"] for row in rows if row["step"] == 0 and "eval_wer" in row)
    assert start == pytest.approx(best)
