"""Milestones: what counts as reached, what is told, what survives a resume, and when a run ends by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import LEARNS
from transformers import TrainerControl, TrainerState, TrainingArguments

from myna.config import Config, load_config
from myna.sections import Milestone
from myna.train.run import resumed_config, train
from myna.train.ttq import TimeToQuality

TINY = [*LEARNS, "training.save_total_limit=20"]
ARGS = TrainingArguments(output_dir="unused", use_cpu=True)


def tiny(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def log_of(run: Path) -> dict:
    return json.loads((run / "results" / "ttq_log.json").read_text())


def watch(folder: Path, *milestones: Milestone, stop_at: str = "never") -> TimeToQuality:
    return TimeToQuality(milestones, stop_at, 10, folder / "results" / "ttq_log.json", Console(width=200))


def measure(ttq: TimeToQuality, percents: list[float], hours_each: float = 0.1, last_step: int = 1000) -> list[int]:
    """Evaluate every ten steps, `hours_each` apart; steps at which the run was asked to end."""
    state, ended = TrainerState(max_steps=last_step, is_world_process_zero=True), []
    for percent in percents:
        state.global_step += 10
        ttq.earlier_hours += hours_each
        control = TrainerControl()
        ttq.on_evaluate(ARGS, state, control, metrics={"eval_wer": percent / 100, "eval_cer": percent / 200})
        if control.should_training_stop:
            assert control.should_save
            ended.append(state.global_step)
    return ended


def test_milestones_are_reached_at_their_first_evaluation_in_budget_or_late(tmp_path, capsys):
    milestones = Milestone(wer=50, budget_hours=0.5), Milestone(wer=30, budget_hours=0.35), Milestone(cer=10)
    measure(watch(tmp_path, *milestones), [80, 50, 40, 30, 35])
    log = log_of(tmp_path)
    assert [one["reached"] for one in log["milestones"]] == [
        {"step": 20, "hours": 0.2, "in_budget": True},
        {"step": 40, "hours": 0.4, "in_budget": False},
        None,
    ]
    assert log["milestones"][2] == {"cer": 10.0, "reached": None}
    assert [(row["step"], row["hours"], row["wer"], row["cer"]) for row in log["history"]][:2] == [
        (10, 0.1, 80.0, 40.0),
        (20, 0.2, 50.0, 25.0),
    ]
    assert [row["forecast"] is None for row in log["history"]] == [True, True, False, False, False]
    assert log["stopped"] is None
    told = capsys.readouterr().out
    assert told.count("WER 50 % within 0.5 h: reached after 12 min.") == 1
    assert "WER 30 % within 0.35 h: reached after 24 min, over budget." in told
    assert "CER 10 %: " in told and "Best CER at the end: " in told and "80 % interval: " in told


def test_a_forecast_gives_chance_hours_and_interval_of_what_is_left(tmp_path):
    falling = [100 * 0.93**number for number in range(1, 21)]  # 23 % by now; the same law gives 15 % after 2.7 h
    milestones = Milestone(wer=15), Milestone(wer=15, budget_hours=2.05), Milestone(wer=90)
    measure(watch(tmp_path, *milestones), falling, last_step=600)
    outlooks = log_of(tmp_path)["history"][-1]["forecast"]["milestones"]
    assert list(outlooks) == ["WER 15 %", "WER 15 % within 2.05 h"]  # 90 % is reached
    likely, hurried = outlooks.values()
    assert likely["chance"] > 0.9
    assert 2.3 < likely["hours_low"] <= 2.7 <= likely["hours_high"] < 4.5
    assert likely["hours_low"] < likely["hours"] < likely["hours_high"]
    assert hurried["chance"] == 0  # the next evaluation comes at 2.1 h
    assert hurried["hours"] == likely["hours"]


def test_a_run_without_milestones_keeps_its_curve_and_says_nothing(tmp_path, capsys):
    measure(watch(tmp_path), [80, 60, 50, 40])
    assert [row["wer"] for row in log_of(tmp_path)["history"]] == [80, 60, 50, 40]
    assert capsys.readouterr().out == ""


def test_stop_at_milestone_waits_for_all_of_them(tmp_path):
    milestones = [Milestone(wer=50), Milestone(wer=30)]
    assert measure(watch(tmp_path / "a", *milestones, stop_at="milestone"), [60, 40, 35, 29]) == [40]
    assert log_of(tmp_path / "a")["stopped"] == "milestone"
    assert measure(watch(tmp_path / "b", *milestones), [60, 40, 35, 29]) == []
    assert log_of(tmp_path / "b")["stopped"] is None


def test_stop_at_hopeless_waits_for_a_third_of_the_run_and_then_for_two_forecasts_without_a_chance(tmp_path):
    flat = [60.0, 50.5, 50.1, *[50.0, 50.2] * 10]
    far, near = Milestone(wer=2), Milestone(wer=49.5)
    ended = measure(watch(tmp_path / "far", far, stop_at="hopeless"), flat, last_step=240)
    assert ended[0] == 90  # a third is step 80
    chances = [row["forecast"]["milestones"]["WER 2 %"]["chance"] for row in log_of(tmp_path / "far")["history"][7:9]]
    assert max(chances) < 0.02
    assert measure(watch(tmp_path / "near", far, near, stop_at="hopeless"), flat[:12], last_step=240) == []
    assert measure(watch(tmp_path / "never", far), flat[:12], last_step=240) == []


def test_a_budget_that_is_over_is_hopeless_at_once(tmp_path, capsys):
    late = watch(tmp_path, Milestone(wer=20, budget_hours=0.15), Milestone(wer=90), stop_at="hopeless")
    assert measure(late, [80, 60]) == [20]
    assert log_of(tmp_path)["stopped"] == "hopeless"
    assert "--resume with training.stop_at=never" in capsys.readouterr().out


def test_milestones_may_change_when_a_run_is_resumed(tmp_path):
    first = watch(tmp_path, Milestone(wer=2), stop_at="hopeless")
    measure(first, [60.0, 50.0, 50.0, 50.0])
    again = watch(tmp_path, Milestone(cer=40), Milestone(wer=49), Milestone(cer=3), stop_at="hopeless")
    for name, value in first.state()["attributes"].items():  # as the trainer does
        setattr(again, name, value)
    state = TrainerState(max_steps=60, global_step=50, is_world_process_zero=True)
    again.on_evaluate(ARGS, state, TrainerControl(), metrics={"eval_wer": 0.5, "eval_cer": 0.25})
    log = log_of(tmp_path)
    assert [one["reached"] and one["reached"]["step"] for one in log["milestones"]] == [10, None, None]
    assert list(log["history"][-1]["forecast"]["milestones"]) == ["WER 49 %", "CER 3 %"]


@pytest.mark.slow
def test_hours_and_history_go_on_from_the_checkpoint_as_in_the_uninterrupted_run(tone_catalog, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ["training.num_train_epochs=4", "ttq.milestones=[{wer: 1, budget_hours: 2}]"]
    train(tiny(tone_catalog, whole, *settings), console=Console(quiet=True))
    shutil.copytree(whole, killed, symlinks=True)
    checkpoints = sorted(killed.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    for later in checkpoints[2:]:  # what a kill in the third epoch leaves
        shutil.rmtree(later)
    train(resumed_config(str(killed)), resume=str(killed), console=Console(quiet=True))
    expected, resumed = log_of(whole)["history"], log_of(killed)["history"]
    assert [(row["step"], row["wer"], row["cer"]) for row in resumed] == [
        (row["step"], row["wer"], row["cer"]) for row in expected
    ]
    finals = [[row["forecast"] and row["forecast"]["final"] for row in rows] for rows in (resumed, expected)]
    assert finals[0] == finals[1] and finals[0][2] is not None
    assert resumed[:2] == expected[:2]  # hours, too
    state = json.loads((checkpoints[1] / "trainer_state.json").read_text())
    spent = state["stateful_callbacks"]["TimeToQuality"]["attributes"]["earlier_hours"]
    assert expected[1]["hours"] <= spent < resumed[2]["hours"]
    assert resumed[2]["hours"] - spent < 20 / 3600  # of one epoch, not of what lay between


@pytest.mark.slow
def test_a_run_that_ends_by_its_milestone_can_go_on(tone_catalog, tmp_path):
    run = tmp_path / "run"
    settings = ["training.num_train_epochs=5", "ttq.milestones=[{wer: 99.9}]", "training.stop_at=milestone"]
    short = train(tiny(tone_catalog, run, *settings), console=Console(quiet=True))
    log = log_of(run)
    assert log["stopped"] == "milestone" and log["milestones"][0]["reached"]["step"] == short.steps
    assert (run / "last").resolve().name == f"checkpoint-{short.steps}"
    whole = train(resumed_config(str(run), ["training.stop_at=never"]), resume=str(run), console=Console(quiet=True))
    assert whole.steps > short.steps
    assert log_of(run)["milestones"] == log["milestones"] and log_of(run)["stopped"] is None
