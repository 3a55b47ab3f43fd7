from __future__ import annotations

import json
import time

from rich.console import Console
from transformers import TrainerControl, TrainerState

from myna.plan.speed import WARM_UP_STEPS, Rate, SpeedPrediction
from myna.train.speed_watch import MEASURED_STEPS, SpeedWatch

PREDICTED = SpeedPrediction(0.01, 10, 0.1, 1, 0.1, 1, Rate(1, "a test"), None, None)


def test_steps_are_timed_without_validation_and_checkpoints_and_kept_with_the_plan(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text('{"config": {}}')
    watch = SpeedWatch(PREDICTED, path, Console(width=200))
    state, control = TrainerState(max_steps=3600, is_world_process_zero=True), TrainerControl()
    watch.on_train_begin()
    for _ in range(WARM_UP_STEPS + MEASURED_STEPS + 5):
        time.sleep(0.01)
        watch.on_step_end(None, state, control)
        time.sleep(0.02)
        watch.on_evaluate()
        watch.on_save()
    written = json.loads(path.read_text())
    assert written["config"] == {}
    calibration = written["calibration"]
    assert calibration["steps"] == MEASURED_STEPS == len(watch.step_seconds) - WARM_UP_STEPS
    assert 0.01 <= calibration["step_seconds"] < 0.03  # 0.03 with validation
    assert calibration["hours"] == calibration["step_seconds"]  # of 3600 steps
    assert capsys.readouterr().out.count("All 3600 steps take") == 1
