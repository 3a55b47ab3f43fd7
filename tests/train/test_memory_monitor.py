"""Memory that is really allocated is seen, logged, compared and warned of."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from myna.errors import ConfigError
from myna.train.memory_monitor import GIB, MemoryMonitor

MIB = 2**20
BLOCK_MIB = 300


def block() -> torch.Tensor:
    """Memory that is touched, so that it is resident."""
    return torch.ones(BLOCK_MIB * MIB // 4)


def arguments(batch_size: int = 8) -> SimpleNamespace:
    return SimpleNamespace(
        device=torch.device("cpu"), per_device_train_batch_size=batch_size, gradient_accumulation_steps=3
    )


def begun(monitor: MemoryMonitor, model: nn.Module | None = None) -> MemoryMonitor:
    monitor.on_train_begin(arguments(), TrainerState(), TrainerControl(), model=model)
    return monitor


def step(monitor: MemoryMonitor, number: int = 1, batch_size: int = 8) -> None:
    monitor.on_step_end(arguments(batch_size), TrainerState(global_step=number), TrainerControl())


def test_the_peak_is_seen_after_the_memory_is_gone():
    monitor = begun(MemoryMonitor())
    before = monitor.peak_bytes()
    del (tensor := [block()])[:]
    assert not tensor
    assert monitor.peak_bytes() - before == pytest.approx(BLOCK_MIB * MIB, rel=0.15)


def test_the_model_counts_though_it_was_there_before():
    model = nn.Linear(4096, 4096, bias=False)  # 64 MiB
    with_model, without = begun(MemoryMonitor(), model).peak_bytes(), begun(MemoryMonitor()).peak_bytes()
    assert with_model - without == pytest.approx(64 * MIB, abs=16 * MIB)


def test_a_new_run_starts_a_new_peak():
    monitor = begun(MemoryMonitor())
    large = block()
    del large
    assert begun(monitor).peak_bytes() < BLOCK_MIB * MIB / 2


def test_figures_are_logged_with_the_metrics():
    monitor = begun(MemoryMonitor(predicted_peak_bytes=3 * GIB))
    state = TrainerState(log_history=[{"loss": 1.0}])
    logs = {"loss": 1.0}
    monitor.on_log(arguments(), state, TrainerControl(), logs=logs)
    assert logs["memory_predicted_peak_gib"] == 3.0
    assert logs["memory_process_gib"] == pytest.approx(psutil.Process().memory_info().rss / GIB, rel=0.1)
    assert 0 < logs["memory_ram_used_gib"] < 10_000
    assert all(math.isfinite(value) for value in logs.values())
    assert "memory_gpu_reserved_gib" not in logs
    assert state.log_history[-1] == logs


def test_prediction_and_measurement_stand_side_by_side(caplog):
    with caplog.at_level(logging.INFO):
        monitor = begun(MemoryMonitor(predicted_peak_bytes=4 * GIB))
        step(monitor)
        step(monitor, 2)
    assert caplog.text.count("predicted were 4.00 GiB") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert monitor.measured_peak_bytes is not None


def test_growth_of_the_process_is_told_but_no_warning(caplog):
    """Without a card libraries that load late are in what is measured."""
    with caplog.at_level(logging.INFO):
        monitor = begun(MemoryMonitor(predicted_peak_bytes=10 * MIB))
        held = block()
        step(monitor)
    assert monitor.measured_peak_bytes > 0.8 * held.nbytes
    assert "predicted were 0.01 GiB" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_memory_that_runs_short_is_cleaned_up_and_warned_of_once(caplog):
    resident = psutil.Process().memory_info().rss
    monitor = begun(MemoryMonitor(limit_bytes=resident + 50 * MIB))
    held = block()
    for number in range(1, 120):
        step(monitor, number)
    assert len(held)
    assert monitor.clean_ups == 3  # steps 1, 51 and 101
    assert len(caplog.records) == 1
    # Twice the micro-batches of half the clips: the same optimizer steps.
    assert "training.gradient_accumulation_steps=6 training.per_device_train_batch_size=4" in caplog.text
    assert "gradient_checkpointing=true" in caplog.text


def test_a_batch_of_one_cannot_be_smaller(caplog):
    monitor = begun(MemoryMonitor(limit_bytes=MIB))
    step(monitor, batch_size=1)
    assert "per_device_train_batch_size" not in caplog.text
    assert "gradient_checkpointing" in caplog.text


def test_enough_memory_needs_no_clean_up(caplog):
    monitor = begun(MemoryMonitor(limit_bytes=10**15))
    step(monitor)
    assert monitor.clean_ups == 0
    assert caplog.text == ""


def test_garbage_is_collected():
    """A cycle that holds memory: nothing but the collector frees it."""
    resident = psutil.Process().memory_info().rss
    monitor = begun(MemoryMonitor(limit_bytes=resident + 100 * MIB))
    cycle: dict[str, object] = {"block": block()}
    cycle["self"] = cycle
    del cycle
    step(monitor)
    assert monitor.clean_ups == 1
    assert psutil.Process().memory_info().rss < resident + 100 * MIB


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ConfigError, match="threshold"):
        MemoryMonitor(threshold=threshold)


class Squares(nn.Module):
    """A loss of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.linear(x).square().mean()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_trainers_own_run(tmp_path):
    monitor = MemoryMonitor(predicted_peak_bytes=GIB)
    args = TrainingArguments(str(tmp_path), max_steps=3, logging_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    data = [{"x": torch.ones(512)} for _ in range(24)]
    trainer = Trainer(Squares(), args, train_dataset=data, callbacks=[monitor])
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 3
    assert all(line["memory_peak_gib"] > 0 and line["memory_predicted_peak_gib"] == 1.0 for line in lines)
    assert 0 < monitor.measured_peak_bytes < GIB
