from __future__ import annotations

import pytest
import torch
from plan_cases import Asked, card, dataset, model

from myna.errors import PlanError
from myna.plan.choices.choose import choose
from myna.plan.choices.precision import precision_choice
from myna.plan.speed import bf16_gain
from myna.plan.training_plan import TrainingPlan


def plan(overrides: dict | None = None, **fields: object) -> TrainingPlan:
    return choose(card(10, **fields), dataset(), model(), overrides=overrides, ask=Asked())


@pytest.mark.parametrize(("gain", "precision"), [(1.49, "fp32"), (1.5, "bf16"), (2.6, "bf16")])
def test_a_processors_bf16_is_taken_where_a_trial_shows_a_gain(monkeypatch, gain, precision):
    tried = []
    monkeypatch.setattr("myna.plan.choices.precision.bf16_gain", lambda width: tried.append(width) or gain)
    processor = card(gpu_count=0, gpu_name=None, dtypes=("fp32", "bf16"), is_present=True)
    choice = precision_choice(processor, 256)
    assert (choice.value, tried) == (precision, [256])
    assert f"{gain:.1f} times as fast" in choice.reason
    assert precision_choice(processor, 127).value == "fp32"
    without = precision_choice(card(gpu_count=0, dtypes=("fp32",), is_present=True), 256)
    assert (without.value, tried) == ("fp32", [256])
    assert "no bf16 of its own" in without.reason


def test_the_trial_measures_this_processor():
    bf16_gain.cache_clear()
    state = torch.get_rng_state()
    assert 0.01 < bf16_gain(128) < 100
    assert torch.equal(torch.get_rng_state(), state)  # a run draws what it would have drawn


def test_what_the_device_decides_has_a_reason_in_the_plan():
    expected = {
        0: {"torch_compile": False, "expandable_segments": False, "pinned_transfer": False},
        1: {"torch_compile": False, "expandable_segments": True, "pinned_transfer": True},
    }
    for gpu_count, values_of_device in expected.items():
        found = plan(gpu_count=gpu_count, dtypes=("fp32",))
        written = found.to_json()
        assert values_of_device.items() <= written["step"].items()
        assert written["step"]["optimizer"] == "adamw_torch_fused"
        assert all(written["reasons"][key] for key in (*values_of_device, "optimizer", "precision"))


def test_what_is_given_of_a_step_is_kept_and_said_to_be_given():
    found = plan({"torch_compile": True, "optimizer": "adamw_torch"})
    assert found.step_choices["torch_compile"].value is True
    assert found.step_choices["torch_compile"].reason.startswith("set by you; planned False")
    assert found.settings.optimizer == "adamw_torch"
    with pytest.raises(PlanError, match="torch_compile: expected true or false"):
        plan({"torch_compile": "often"})
