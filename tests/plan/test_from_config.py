"""What a configuration fixes reaches the plan, and what the plan finds reaches the configuration."""

from __future__ import annotations

import numpy as np
import pytest
from plan_cases import GB, Asked, card, dataset, model

from myna.config import load_config
from myna.errors import PlanError
from myna.plan.from_config import augmented, filled, is_open, plan_at_once, plan_for
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.model import ModelProfile


def planned(*overrides: str, memory_gb: float = 30, data: DatasetProfile | None = None):
    config = load_config([], list(overrides))
    plan = plan_for(config, card(memory_gb), data or dataset(), model(), ask=Asked())
    return plan, filled(config, plan)


def test_nothing_is_open_once_a_plan_has_filled_it():
    plan, config = planned()
    assert not is_open(config)
    assert config.feed.step_seconds == plan.feed.step_seconds
    assert config.training.max_duration_seconds == 30
    assert (config.training.optim, config.training.torch_compile) == ("adamw_torch_fused", False)


def test_how_a_step_is_taken_may_be_given():
    plan, config = planned("training.optim=adamw_torch", "training.torch_compile=true")
    assert (plan.settings.optimizer, plan.step_choices["torch_compile"].value) == ("adamw_torch", True)
    assert (config.training.optim, config.training.torch_compile) == ("adamw_torch", True)


def test_a_step_that_is_given_is_the_step_that_is_split():
    """100 GB of activations in steps of 2000 s, and 28.4 beside the state: four micro-batches, not one."""
    plan, config = planned("feed.step_seconds=2000", "feed.num_buckets=5")
    assert plan.feed.step_seconds == config.feed.step_seconds == 2000
    assert plan.feed.num_buckets == 5
    assert config.training.gradient_accumulation_steps == plan.feed.feed_accumulation == 4
    assert plan.feed.memory.peak_bytes <= 30 * GB


def test_a_step_and_a_split_that_do_not_go_together_are_refused():
    with pytest.raises(
        PlanError, match=r"gradient_accumulation_steps: expected at least 4 for feed\.step_seconds=2000"
    ):
        planned("feed.step_seconds=2000", "training.gradient_accumulation_steps=2")


def test_the_plan_describes_what_given_batch_sizes_make():
    """Four clips of 30 s a micro-batch, as the trainer cuts them, not 32 mean ones."""
    plan, config = planned("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2")
    assert (plan.feed.step_seconds, plan.feed.feed_accumulation) == (240, 2)
    assert plan.feed.clips_per_bucket[-1] == (30, 4)
    assert config.training.per_device_train_batch_size == 4
    assert config.feed.step_seconds == "auto"
    assert planned("training.per_device_train_batch_size=4")[1].training.gradient_accumulation_steps == 1


def test_memory_is_predicted_for_the_batch_that_a_run_begins_with():
    plan, _ = planned()
    fullest = max(clips * seconds for seconds, clips in plan.feed.clips_per_bucket)
    assert plan.feed.memory.clips * plan.feed.memory.seconds == pytest.approx(fullest, rel=0.01)
    assert plan.feed.memory.peak_bytes < plan.memory.peak_bytes  # 256 s, not 16 clips of 30
    assert f"{plan.feed.memory.peak_bytes / 2**30:.2f} GiB of" in plan.summary


def test_a_step_holds_all_the_clips_that_are_asked_for():
    """32 clips of 2.0001 s are 64.0032 s; in 64 s there would be 31."""
    plan, _ = planned(data=DatasetProfile.from_durations(np.full(1000, 2.0001)))
    assert plan.feed.step_seconds >= 32 * 2.0001
    assert plan.feed.clips_per_bucket[-1][1] * plan.feed.feed_accumulation >= 32


def test_a_number_of_steps_counts_instead_of_epochs():
    plan, _ = planned("training.max_steps=100")
    by_epochs, _ = planned("training.num_train_epochs=2")
    assert plan.choices["warmup_steps"].value == 10
    assert plan.speed is None and by_epochs.speed is None  # nobody knows this card


def test_clips_that_do_not_fit_alone_are_left_out_of_the_run():
    durations = np.append(np.linspace(6, 10, 20_000), 300)
    plan, config = planned(memory_gb=4.5, data=DatasetProfile.from_durations(durations))
    assert "left out" in plan.notes[0]
    assert config.training.max_duration_seconds == pytest.approx(10, abs=0.02)


def test_the_formula_alone_leaves_nothing_out():
    """By the quick formula the last clip does not fit; only a trace may say so."""
    config = load_config([], ["training.effective_batch_size=2"])
    data = DatasetProfile.from_durations(np.append(np.linspace(6, 10, 20_000), 400))
    subject = ModelProfile.from_config(config)
    roomy, tight = card(2000), card(3)
    assert plan_at_once(config, roomy, data, subject) is not None
    by_formula = plan_for(config, tight, data, subject, ask=closed_formula)
    assert "left out" in by_formula.notes[0]
    assert by_formula.feed.feed_accumulation == 1 and not by_formula.settings.gradient_checkpointing
    assert plan_at_once(config, tight, data, subject) is None


def test_a_longest_clip_that_is_given_is_planned_for():
    plan, config = planned("training.max_duration_seconds=12")
    assert plan.feed.memory.seconds <= 12
    assert config.training.max_duration_seconds == 12


def test_a_sample_of_the_lengths_is_said_to_be_one():
    data = DatasetProfile.from_durations(np.linspace(1, 15, 1000), utterances=50_000)
    assert "1,000 were measured" in planned(data=data)[0].notes[0]
    assert not planned(data=DatasetProfile.from_summary(60, 8, 30))[0].notes


def test_augmentation_makes_clips_longer():
    speed = "{type: speed, probability: 0.5, min_factor: 0.8, max_factor: 1.2}"
    warp = "{type: warp, probability: 0.5, max_time_factor: 1.5}"
    config = load_config([], [f"augment=[{speed}, {warp}]"])
    assert augmented(config).longest_seconds(4) == pytest.approx(4 * 1.5 / 0.8)
    assert augmented(load_config([])).longest_seconds(4) == 4
    window = [f"augment=[{speed}]", "model.family=whisper", "model.pretrained=openai/whisper-tiny"]
    assert augmented(load_config([], window)).longest_seconds(4) == 4
    short = [*window, "model.audio_context=auto", "training.eval_on_start=true"]
    assert augmented(load_config([], short)).longest_seconds(4) == 5
    plain, _ = planned()
    longer, _ = planned(f"augment=[{speed}]")
    assert longer.choices["per_device_train_batch_size"].value < plain.choices["per_device_train_batch_size"].value
    assert longer.feed.step_seconds == plain.feed.step_seconds
