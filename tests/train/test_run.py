"""Training runs: they learn, stop, go on bit for bit, and refuse what does not belong together."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_runs import LEARNS
from transformers import TrainerState

from myna.config import Config, load_config
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.errors import TrainingError, VersionError
from myna.evaluate.run import evaluate
from myna.feed.epoch import BatchBudget, plan_epoch
from myna.train.callbacks import RunLog
from myna.train.checkpoint import step_of
from myna.train.run import resumed_config, train

TINY = [*LEARNS, "training.logging_steps=1"]


def tiny(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def tiny_plan(catalog: Path) -> tuple:
    """The steps of one epoch of a tiny run."""
    with Catalog(catalog) as opened:
        utterances = opened.utterances(opened.version("").version_id, split="train")
        durations = np.array([utterance.duration_seconds for utterance in utterances])
    return plan_epoch(durations, BatchBudget.from_longest(durations.max(), 4), seed=0, epoch=0).steps


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
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shares = [row["feed_wait_share"] for row in logged if "loss" in row]
    assert shares and all(0 <= share <= 1 for share in [*shares, result.feed_wait_share])
    assert result.audio_seconds_per_second > result.utterances_per_second > 1  # clips of one to two seconds


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
def test_saving_within_an_epoch_changes_no_logged_loss(tone_catalog, tmp_path):
    settings = ["training.num_train_epochs=2", "training.logging_steps=5", "training.eval_strategy=no"]
    for name, saving in (("never", "no"), ("often", "steps")):
        more = [f"training.save_strategy={saving}", "training.save_steps=7"]
        train(tiny(tone_catalog, tmp_path / name, *settings, *more), console=quiet())
    assert losses(tmp_path / "often") == losses(tmp_path / "never")


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


def rows(run: Path) -> list[dict]:
    """Logged figures but for those of the clock and of this machine's memory."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "eval_seconds", "feed_wait_share", "utterances_per_second", "audio_seconds_per_second")
    return [
        {name: value for name, value in row.items() if name not in clock and not name.startswith("memory_")}
        for row in found
        if "epoch" in row
    ]


def forget_after(run: Path, step: int) -> None:
    """Leave the run as a kill right after the checkpoint of `step` would, its links not yet made."""
    for link in ("best", "last"):
        (run / link).unlink(missing_ok=True)
    for checkpoint in run.glob("checkpoint-*"):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.slow
def test_resuming_at_an_epochs_end_gives_the_same_log_best_and_last(tone_catalog, tmp_path):
    """Steps a checkpoint is due at are also an epoch's last, where validation is; log lines span checkpoints."""
    settings = ["training.num_train_epochs=3", "training.save_strategy=steps", "training.logging_steps=3"]
    settings += ["training.eval_on_start=true", "training.metric_for_best_model=loss", "training.save_total_limit=9"]
    per_epoch = len(tiny_plan(tone_catalog))
    whole, again = tmp_path / "whole", tmp_path / "again"
    config = tiny(tone_catalog, whole, *settings, f"training.save_steps={per_epoch}")
    result = train(config, console=quiet())
    best = result.best_step
    assert best == result.steps == 3 * per_epoch  # the loss falls
    assert (whole / "best").resolve().name == f"checkpoint-{best}"
    shutil.copytree(whole, again, symlinks=True)
    forget_after(again, per_epoch)
    resumed = train(resumed_config(str(again)), resume=str(again), console=quiet())
    assert (resumed.steps, resumed.best_step, resumed.best_metric) == (result.steps, best, result.best_metric)
    keep = {"loss", "eval_loss"}
    assert [row for row in rows(again) if keep & row.keys()] == [row for row in rows(whole) if keep & row.keys()]
    forget_after(again, best)
    finished = train(resumed_config(str(again)), resume=str(again), console=quiet())
    assert finished.steps == best  # not a step more
    assert {(again / link).resolve().name for link in ("best", "last")} == {f"checkpoint-{best}"}


@pytest.mark.slow
def test_a_finished_run_takes_no_more_steps(tone_catalog, tmp_path):
    train(tiny(tone_catalog, tmp_path / "run", "training.max_steps=2"), console=quiet())
    run = str(tmp_path / "run")
    assert train(resumed_config(run), resume=run, console=quiet()).steps == 2
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.slow
def test_a_run_always_ends_with_a_checkpoint_and_keeps_it_beside_the_best(tone_catalog, tmp_path):
    settings = ["training.max_steps=3", "training.save_every_epochs=5", "training.save_total_limit=1"]
    settings += ["training.learning_rate=1e-30", "training.eval_on_start=true"]  # nothing is better than the start
    train(tiny(tone_catalog, tmp_path / "run", *settings), console=quiet())
    assert (tmp_path / "run" / "best").resolve().name == "checkpoint-0"
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "last").resolve().name == "checkpoint-3"


@pytest.mark.slow
def test_patience_survives_a_resume_that_may_change_the_rhythm(tone_catalog, tmp_path):
    run = tmp_path / "run"
    settings = ["training.max_steps=4", "training.eval_strategy=steps", "training.eval_steps=1"]
    settings += ["training.learning_rate=1e-30", "training.early_stopping_patience=3", "training.save_total_limit=9"]
    settings += ["training.save_strategy=steps", "training.save_steps=1"]
    whole = train(tiny(tone_catalog, run, *settings), console=quiet())
    assert whole.steps == 4  # the first validation is the best, three without a gain follow
    forget_after(run, 3)
    limits = ["training.max_steps=20", "training.logging_steps=7"]
    resumed = train(resumed_config(str(run), limits), resume=str(run), console=quiet())
    assert resumed.steps == 4
    state = json.loads((run / "last" / "trainer_state.json").read_text())
    assert state["logging_steps"] == 7


@pytest.mark.slow
def test_ranks_without_an_accelerator_train_together(tone_catalog, tmp_path):
    """Two ranks, one of which comes late, share each step, one log, one set of checkpoints and one answer."""
    run = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "myna", "train", "--json", *TINY, f"data.db={tone_catalog}"]
    command += [f"training.output_dir={run}", "training.max_steps=2", "training.per_device_train_batch_size=8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 2
    logged = [row["step"] for row in rows(run) if "loss" in row]
    assert logged == [1, 2]
    alone = tiny(tone_catalog, tmp_path / "alone", "training.max_steps=1", "training.per_device_train_batch_size=16")
    train(alone, console=quiet())
    assert losses(run)[1] == pytest.approx(losses(tmp_path / "alone")[1], rel=0.1)  # dropout differs


@pytest.mark.slow
def test_utterances_that_are_too_long_are_set_aside_by_name_and_stay_so_after_a_resume(tone_catalog, tmp_path):
    run = tmp_path / "run"
    with Catalog(tone_catalog) as opened:
        utterances = list(opened.utterances(opened.version("").version_id, split="train"))
    longest = sorted(utterance.duration_seconds for utterance in utterances)[len(utterances) // 2]
    expected = {utterance.audio_path for utterance in utterances if utterance.duration_seconds > longest}
    config = tiny(tone_catalog, run, f"training.max_duration_seconds={longest}", "training.num_train_epochs=1")
    first = train(config, console=quiet())
    refused = json.loads((run / "dataset.json").read_text())["refused"]
    assert expected and {row["audio_path"] for row in refused if row["reason"] == "too_long"} == expected
    again = train(resumed_config(str(run), ["training.num_train_epochs=2"]), resume=str(run), console=quiet())
    assert again.steps == 2 * first.steps


@pytest.mark.slow
def test_validation_that_can_read_nothing_is_no_best_score(tone_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tone_corpus, corpus)
    db = tmp_path / "catalog.db"
    prepare([str(corpus)], str(db), PrepareSettings(), workers=1)
    for clip in corpus.glob("clips/cyd_*.wav"):  # the validation split
        clip.unlink()
    with pytest.raises(TrainingError, match="validation split"):
        train(tiny(db, tmp_path / "run", "training.max_steps=1"), console=quiet())


def test_infinities_are_null_in_the_log(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    state = TrainerState(global_step=1, is_world_process_zero=True)
    log.on_log(None, state, None, logs={"loss": 2.5, "grad_norm": math.inf})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (row["loss"], row["grad_norm"]) == (2.5, None)


def test_a_file_is_no_run_folder(tone_catalog, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="received a file"):
        train(tiny(tone_catalog, tmp_path / "file"), console=quiet())


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


@pytest.mark.slow
def test_the_last_fit_learns_from_the_validation_split_too_and_evaluation_says_so(tone_catalog, tmp_path):
    settings = ["training.include_validation=true", "training.eval_strategy=no", "training.max_steps=2"]
    train(tiny(tone_catalog, tmp_path / "run", *settings), console=quiet())
    with Catalog(tone_catalog) as opened:
        version = opened.version("").version_id
        validation = list(opened.utterances(version, split="valid"))
    report = evaluate(str(tmp_path / "run"), db=str(tone_catalog), split="valid")
    assert report.seen_in_training == len(validation) > 0
    assert evaluate(str(tmp_path / "run"), db=str(tone_catalog), split="test").seen_in_training == 0
