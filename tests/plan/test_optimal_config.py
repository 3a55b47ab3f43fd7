from __future__ import annotations

import dataclasses
import json

import pytest
from plan_cases import Asked, card, dataset, model

from myna.errors import PlanError
from myna.plan.choices.choose import choose
from myna.plan.optimal_config import KEYS, OptimalConfig

SAVED_KEYS = [
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "effective_batch_size",
    "gradient_checkpointing",
    "fp16",
    "bf16",
    "dataloader_num_workers",
    "max_audio_duration_seconds",
    "audio_chunk_length_seconds",
    "use_streaming",
    "cache_dataset",
    "num_train_epochs",
    "learning_rate",
    "warmup_steps",
    "eval_steps",
    "save_steps",
    "logging_steps",
    "memory_reserve_gb",
    "max_memory_usage_percent",
]


@pytest.fixture
def config() -> OptimalConfig:
    return choose(card(4.5), dataset(), model(), ask=Asked()).config


def test_the_file_has_exactly_the_promised_keys_and_comes_back_equal(config, tmp_path):
    path = config.save(tmp_path / "new" / "config.json")
    assert list(json.loads(path.read_text())) == SAVED_KEYS == list(KEYS)
    loaded = OptimalConfig.load(path)
    assert loaded == config
    assert loaded.plan is None
    assert "per_device_train_batch_size  4" in str(loaded)


def test_a_wrong_file_is_refused_with_all_its_mistakes(config, tmp_path):
    values = config.to_json() | {"per_device_batch_size": 4, "fp16": "yes", "warmup_steps": 1.5}
    del values["save_steps"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(PlanError) as error:
        OptimalConfig.load(path)
    text = str(error.value)
    assert "per_device_batch_size: no such key; did you mean per_device_" in text
    assert "fp16: expected true or false; received 'yes'" in text
    assert "warmup_steps: expected a whole number; received 1.5" in text
    assert "save_steps: expected a value; it is missing" in text
    assert len(error.value.conflicts) == 4


@pytest.mark.parametrize("content", ["{", "[]", "NaN" * 3, "[" * 100_000])
def test_what_is_not_such_a_file_is_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(PlanError):
        OptimalConfig.load(path)
    with pytest.raises(PlanError, match="there is none"):
        OptimalConfig.load(tmp_path / "missing.json")


def test_overriding_plans_again_and_refuses_what_does_not_fit(config):
    assert config.per_device_train_batch_size == 4
    smaller = config.override(effective_batch_size=8)
    assert smaller.effective_batch_size == 8
    with pytest.raises(PlanError, match="per_device_train_batch_size: expected at most 7"):
        config.override(per_device_train_batch_size=8)


def test_overriding_a_loaded_configuration_keeps_the_product_true(config):
    loaded = OptimalConfig.from_json(config.to_json())
    assert loaded.override(per_device_train_batch_size=2).effective_batch_size == 16
    with pytest.raises(PlanError, match="did you mean"):
        loaded.override(per_device_train_batchsize=2)


def test_values_set_by_hand_are_shown_as_such_and_checked_before_use(config):
    changed = dataclasses.replace(config, logging_steps=99)
    assert "set by you, unchecked" in str(changed)
    changed.bf16 = changed.fp16 = True
    changed.gradient_accumulation_steps = 3
    with pytest.raises(PlanError) as error:
        changed.training_arguments()
    assert len(error.value.conflicts) == 2


def test_training_arguments_carry_the_plan(config, tmp_path):
    arguments = config.training_arguments(output_dir=str(tmp_path), learning_rate=1e-5, report_to=[])
    assert arguments.per_device_train_batch_size == 4
    assert arguments.gradient_accumulation_steps == 8
    assert arguments.gradient_checkpointing is True
    assert arguments.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert arguments.learning_rate == 1e-5
    assert arguments.warmup_steps == config.warmup_steps
    assert arguments.eval_strategy == "steps" and arguments.eval_steps == config.eval_steps
    assert arguments.optim == "adamw_torch_fused"


@pytest.mark.slow
def test_any_trainer_takes_them(config, tmp_path):
    import torch
    from torch import nn
    from transformers import Trainer

    class Line(nn.Module):
        accepts_loss_kwargs = False

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((x * self.weight - labels) ** 2).mean()}

    rows = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 64
    arguments = config.override(num_train_epochs=2.0, learning_rate=0.5, dataloader_num_workers=0).training_arguments(
        output_dir=str(tmp_path),
        eval_strategy="no",
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    outcome = Trainer(Line(), arguments, train_dataset=rows).train()
    assert outcome.global_step == 4  # 64 rows in steps of 32, twice
