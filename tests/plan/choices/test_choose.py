from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from plan_cases import GB, Asked, FormulaMemory, card, dataset, model

from myna.errors import PlanError
from myna.feed.epoch import BatchBudget, plan_epoch
from myna.models.audio_context import AudioContext
from myna.plan.choices.batch import may_run_by_clip
from myna.plan.choices.choose import choose
from myna.plan.choices.cuts import cut, lost_share
from myna.plan.choices.ways import search, split, ways_to_try
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.memory.predict import memory_model
from myna.plan.optimal_config import KEYS
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.model import ModelProfile
from myna.plan.request import MemoryRequest, StepSettings


def plan(memory_gb=10.0, overrides=None, **options):
    asked = options.pop("ask", None) or Asked()
    data, subject = options.pop("data", None) or dataset(), options.pop("subject", None) or model()
    return choose(card(memory_gb, **options), data, subject, overrides=overrides, ask=asked)


def values(found):
    return {key: choice.value for key, choice in found.choices.items()}


def test_the_micro_batch_is_what_fits_at_the_longest_clip():
    """1.6 GB of state, 0.1 of waiting gradients and 1.5 a clip of 30 s: five fit into 10 GB, and four divide 32."""
    found = values(plan(10))
    assert found["per_device_train_batch_size"] == 4
    assert found["gradient_accumulation_steps"] == 8
    assert found["effective_batch_size"] == 32
    assert found["gradient_checkpointing"] is False


def test_every_saved_key_has_a_value_and_a_reason():
    found = plan()
    assert set(found.choices) == set(KEYS)
    assert all(choice.reason for choice in [*found.choices.values(), *found.step_choices.values()])


def test_a_step_that_fits_at_once_needs_no_accumulation():
    """32 clips take 1.6 + 48 GB; only with waiting gradients (0.1 GB) would 49.65 be too little."""
    found = plan(49.65)
    assert values(found)["per_device_train_batch_size"] == 32
    assert found.settings.accumulates is False


def test_checkpointing_only_where_the_plain_step_is_too_small():
    """Plain 1 clip, checkpointed 3, with the front end by clip 7; a step of 4 divides 32."""
    asked = Asked()
    found = plan(4.5, ask=asked)
    assert values(found)["gradient_checkpointing"] is True
    assert found.step_choices["front_end_by_clip"].value is True
    assert values(found)["per_device_train_batch_size"] == 4
    tried = [(step.gradient_checkpointing, step.front_end_by_clip) for step in asked.training_settings[:3]]
    assert tried == [(False, False), (True, False), (True, True)]


def test_a_trained_front_end_never_runs_clip_by_clip():
    found = plan(4.5, subject=model(frozen=()))
    assert found.step_choices["front_end_by_clip"].value is False
    assert values(found)["per_device_train_batch_size"] == 3 - 1  # 3 fit; 2 divides 32
    assert not may_run_by_clip(model(family="conformer", frozen=()))
    assert may_run_by_clip(model(frozen=("wav2vec2",)))


def test_the_plain_step_by_clip_is_tried_where_checkpointing_gains_nothing():
    """Then the front end is the peak of both."""

    class FrontEndIsAll(FormulaMemory):
        def __init__(self, request: MemoryRequest) -> None:
            super().__init__(request)
            self.rate = 5_000_000 if request.settings.front_end_by_clip else 50_000_000

    ways = ways_to_try(StepSettings(), checkpointing=None, by_clip=None, by_clip_possible=True)
    request = MemoryRequest(model().spec)
    best, tried = search(FrontEndIsAll, request, ways, seconds=30, limit_bytes=4 * GB, share=8)
    assert best.name == "plain with the front end clip by clip"
    assert [way.largest for way in tried] == [1, 1, 15]


@pytest.mark.parametrize(
    ("share", "largest", "expected"),
    [(32, 32, (32, 1)), (32, 50, (32, 1)), (32, 7, (4, 8)), (32, 1, (1, 32)), (31, 16, (16, 2)), (30, 7, (6, 5))],
)
def test_split(share, largest, expected):
    assert split(share, largest) == expected


def test_a_batch_that_does_not_divide_says_why():
    found = choose(card(30), dataset(), model(), target_batch_size=31, ask=Asked())
    assert found.choices["effective_batch_size"].value == 32
    assert "no divisor of 31" in found.choices["effective_batch_size"].reason


def test_devices_share_the_step():
    found = plan(10, gpu_count=2)
    assert values(found)["gradient_accumulation_steps"] == 4
    assert found.config.effective_batch_size == 4 * 4 * 2


@pytest.mark.parametrize(
    ("hardware", "precision", "attention"),
    [
        ({"dtypes": ("fp32", "fp16", "bf16")}, "bf16", "efficient"),
        ({"dtypes": ("fp32", "fp16"), "compute_capability": (7, 5), "flash_attention": False}, "fp16", "efficient"),
        ({"dtypes": ("fp32", "fp16"), "compute_capability": (6, 0), "flash_attention": False}, "fp32", "efficient"),
        ({"dtypes": ("fp32",), "compute_capability": (7, 5), "flash_attention": False}, "fp32", "efficient"),
    ],
)
def test_precision_and_attention_follow_the_card(hardware, precision, attention):
    found = plan(**hardware)
    assert found.settings.precision == precision
    assert found.settings.attention == attention


def test_whisper_is_planned_at_its_window_with_the_flash_kernel():
    found = plan(subject=model(family="whisper", frozen=()), data=dataset(longest_seconds=12, mean_seconds=4))
    assert found.memory.seconds == 30
    assert found.feed.step_seconds == 32 * 30
    assert found.settings.attention == "flash"
    assert values(found)["audio_chunk_length_seconds"] == 30


def test_whisper_in_short_context_is_planned_at_its_clips_and_their_margins():
    subject = replace(model(family="whisper", frozen=()), context=AudioContext(3.0))
    found = plan(subject=subject, data=dataset(longest_seconds=12, mean_seconds=4))
    assert found.memory.seconds == 15
    assert 32 * 7 <= found.feed.step_seconds <= 32 * 7.1
    assert found.settings.attention == "flash"
    assert values(found)["audio_chunk_length_seconds"] == 30


def test_without_an_accelerator():
    found = plan(gpu_count=0, gpu_name=None, dtypes=("fp32", "bf16"))
    assert (found.settings.device, found.settings.precision) == ("cpu", "fp32")
    assert "was not measured" in found.step_choices["precision"].reason
    assert found.settings.optimizer == "adamw_torch_fused"


def test_the_feed_is_split_so_that_every_micro_batch_of_an_epoch_fits():
    durations = np.random.default_rng(0).gamma(4, 2, 3000).clip(1, 30)
    found = plan(10, data=DatasetProfile.from_durations(durations))
    feed = found.feed
    assert feed.step_seconds == pytest.approx(32 * durations.mean(), abs=0.01)
    epoch = plan_epoch(durations, BatchBudget(feed.step_seconds, feed.num_buckets), seed=0, epoch=0)
    memory = FormulaMemory(MemoryRequest(model().spec, found.settings))
    parts = [
        epoch.micro_batch(step, part, feed.feed_accumulation)
        for step in range(len(epoch.steps))
        for part in range(feed.feed_accumulation)
    ]
    shapes = {(len(part), float(durations[part].max())) for part in parts if len(part)}
    assert all(memory.fits(clips, seconds, 10 * GB) for clips, seconds in shapes)
    assert max(clips * seconds for clips, seconds in shapes) <= feed.batch_seconds * 1.02
    assert feed.feed_accumulation == 2  # 1 would need 1.7 + 0.05 x 256 GB


def test_a_step_of_the_feed_holds_the_longest_clip():
    found = choose(card(10), dataset(longest_seconds=30, mean_seconds=3), model(), target_batch_size=2, ask=Asked())
    assert found.feed.step_seconds == 30


def test_a_lone_long_clip_is_kept_and_a_cut_proposed():
    durations = np.append(np.linspace(6, 10, 20_000), 120)
    found = plan(10, data=DatasetProfile.from_durations(durations))
    assert values(found)["max_audio_duration_seconds"] == 120
    reason = found.choices["max_audio_duration_seconds"].reason
    assert "all are kept" in reason
    assert "Cut at 10.0 s" in reason and "clips fit instead of 4" in reason


def test_a_clip_that_does_not_fit_alone_is_left_out_aloud_where_little_is_lost():
    durations = np.append(np.linspace(6, 10, 20_000), 300)
    found = plan(4.5, data=DatasetProfile.from_durations(durations))
    assert values(found)["max_audio_duration_seconds"] == pytest.approx(10, abs=0.01)
    assert "left out" in found.notes[0]


def test_where_much_would_be_lost_it_is_an_error_with_the_figures():
    with pytest.raises(PlanError) as error:
        plan(2.0, data=dataset(longest_seconds=20, mean_seconds=15), subject=model(family="conformer", frozen=()))
    assert "max_audio_duration_seconds=10.0 fits and loses" in str(error.value)
    assert "8-bit AdamW (optimizer=adamw_8bit) needs 1.83 GiB" in str(error.value)


def test_too_large_a_model_is_refused_without_a_trace_and_remedies_are_named():
    asked = Asked(parameters=1_000_000_000)
    with pytest.raises(PlanError) as error:
        plan(12, ask=asked, subject=model(1_000_000_000))
    text = str(error.value)
    assert "parameters, gradients and the optimizer's states alone take 14.90 GiB" in text
    for remedy in ("8-bit AdamW", "Adafactor", "LoRA of rank 32", "QLoRA of rank 32"):
        assert remedy in text
    assert {request.settings.optimizer for request in asked.requests} == {
        "adamw_torch_fused",
        "adamw_8bit",
        "adafactor",
    }
    assert all(request.model.lora or request.settings.optimizer != "adamw_torch_fused" for request in asked.requests)


def test_all_conflicts_come_at_once_with_the_largest_value_that_fits():
    overrides = {
        "per_device_train_batch_size": 40,
        "per_device_eval_batch_size": 500,
        "fp16": True,
        "bf16": True,
        "per_device_batch": 3,
        "logging_steps": 0,
        "optimizer": "sgd",
        "max_memory_usage_percent": 120,
    }
    with pytest.raises(PlanError) as error:
        plan(10, overrides)
    text = "\n".join(error.value.conflicts)
    # Checkpointed with the front end by clip: (10 - 1.7 - 0.6) / 0.3 = 25 clips.
    assert "per_device_train_batch_size: expected at most 25" in text
    assert "per_device_eval_batch_size: expected at most 58" in text
    assert "fp16, bf16: expected at most one" in text
    assert "per_device_batch: no such key; did you mean per_device_" in text
    assert "logging_steps: expected at least 1" in text
    assert "optimizer: expected one of" in text
    assert "max_memory_usage_percent" in text
    assert len(error.value.conflicts) == 7


def test_a_batch_that_contradicts_its_product_is_refused():
    keys = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "effective_batch_size": 32}
    with pytest.raises(PlanError, match="expected 4 x 4 x 1 = 16; received 32"):
        plan(10, keys)
    with pytest.raises(PlanError, match="expected a multiple of 5 x 1 = 5"):
        plan(10, {"per_device_train_batch_size": 5, "effective_batch_size": 32})


def test_too_little_accumulation_names_the_least_that_fits():
    with pytest.raises(PlanError, match="gradient_accumulation_steps: expected at least 16"):
        plan(10, {"gradient_accumulation_steps": 2, "effective_batch_size": 400})


def test_what_is_given_is_kept_and_the_rest_chosen_around_it():
    found = values(plan(10, {"per_device_train_batch_size": 8, "warmup_steps": 7}))
    assert found["per_device_train_batch_size"] == 8
    assert found["gradient_accumulation_steps"] == 4
    assert found["gradient_checkpointing"] is True  # 8 do not fit plain
    assert found["warmup_steps"] == 7
    forced = plan(10, {"gradient_checkpointing": False, "max_audio_duration_seconds": 10.0})
    assert forced.memory.seconds <= 10
    assert forced.settings.gradient_checkpointing is False


def test_overriding_a_plan_keeps_the_earlier_overrides():
    again = plan(10, {"warmup_steps": 7}).override(effective_batch_size=16)
    assert again.config.warmup_steps == 7
    assert again.config.effective_batch_size == 16


def test_the_share_of_memory_that_was_given_counts():
    assert plan(10, {"max_memory_usage_percent": 50}).hardware.safety_margin == 0.5
    reserve = plan(10, {"memory_reserve_gb": 1.0})
    assert reserve.hardware.memory_limit_bytes == pytest.approx(9 * GB, abs=10)


def test_steps_follow_the_number_of_utterances():
    found = values(plan(10, data=dataset(utterances=100_000)))
    per_epoch = 3125
    assert found["warmup_steps"] == 2000  # not a tenth of 62,500
    assert found["eval_steps"] == found["save_steps"] == 782  # four an epoch
    assert 4 * found["eval_steps"] >= per_epoch
    assert found["logging_steps"] == 50


def test_streaming_and_caching_follow_disk_and_memory():
    """2.23 h decoded are 0.5 GB."""
    small = values(plan(disk_free_bytes=GB // 2, ram_available_bytes=GB // 2))
    assert (small["use_streaming"], small["cache_dataset"]) == (True, False)
    large = values(plan())
    assert (large["use_streaming"], large["cache_dataset"]) == (False, True)
    assert values(plan(cpu_cores=2.0))["dataloader_num_workers"] == 1


def test_a_cut_of_few_utterances_is_exact():
    whole = DatasetProfile.from_durations([1, 2, 3, 4])
    kept = cut(whole, 3)
    assert (kept.utterances, kept.max_seconds, kept.mean_seconds) == (3, 3, 2)
    assert lost_share(whole, kept) == pytest.approx(0.4)
    with pytest.raises(PlanError, match="at least the shortest clip"):
        cut(whole, 0.5)


def test_the_plan_is_plain_json_and_a_readable_tree():
    found = plan()
    tree = json.loads(json.dumps(found.to_json()))
    assert tree["config"] == found.config.to_json()
    assert set(tree["reasons"]) >= set(KEYS)
    assert tree["memory"]["parts"]["activations"] == 4 * 30 * 50_000_000 + 100_000_000
    text = str(found)
    for heading in ("Hardware", "Dataset", "Model", "Batch", "Memory optimisations", "Data processing", "Safety"):
        assert f"── {heading}" in text


def test_time_is_predicted_for_a_known_card():
    found = plan(10, gpu_name="Tesla T4", gpu_memory_bytes=15_634_661_376, safety_margin=0.8)
    assert found.speed is not None
    assert found.speed.num_epochs == 20
    assert found.speed.hours == pytest.approx(20 * found.speed.epoch_seconds / 3600)
    assert "predicted time" in str(found)
    assert plan().speed is None  # of an unknown card nothing is known


@pytest.mark.slow
def test_a_real_model_is_traced_and_planned(caplog):
    """A small Whisper on the smallest of cards: what is planned fits, and one more clip a batch does not."""
    subject = ModelProfile.from_folder("whisper-tiny")
    with caplog.at_level(logging.WARNING):
        found = choose(card(2.5), dataset(), subject, overrides={"gradient_checkpointing": False})
    assert found.memory.traced, caplog.text
    memory = memory_model(MemoryRequest(subject.spec, found.settings, labels_per_second=15.0))
    largest = memory.largest_batch(30, found.hardware.memory_limit_bytes)
    assert 0 < found.config.per_device_train_batch_size <= largest
    assert found.memory.reserved_bytes <= found.memory.limit_bytes < memory.reserved(largest + 1, 30)
    assert found.memory.peak_bytes > subject.state_bytes


def test_the_largest_value_is_found_beyond_a_thousand_clips():
    """What is offered fits, and a hundredth more does not."""
    overrides = {"per_device_train_batch_size": 100_000, "gradient_checkpointing": True, "front_end_by_clip": True}
    data = DatasetProfile.from_durations(np.full(100, 0.5), labels_per_second=15)
    with pytest.raises(PlanError) as error:
        plan(90, overrides=overrides, data=data)
    largest = int(str(error.value).partition("expected at most ")[2].partition(" ")[0])
    assert largest > 1024
    asked = overrides | {"per_device_train_batch_size": largest}
    assert values(plan(90, overrides=asked, data=data))["per_device_train_batch_size"] == largest
    with pytest.raises(PlanError):
        plan(90, overrides=asked | {"per_device_train_batch_size": int(1.01 * largest)}, data=data)


def test_a_teacher_has_a_line_of_its_own_and_a_place_in_every_prediction():
    profile = ModelProfile.from_folder("whisper-tiny")
    alone, taught = (
        choose(card(16.0), dataset(), profile, teacher=teacher, ask=closed_formula) for teacher in (None, profile)
    )
    assert "teacher" not in alone.step_choices
    choice = taught.step_choices["teacher"]
    assert choice.value == "whisper-tiny" and "37.8 M weights" in choice.reason
    assert taught.to_json()["reasons"]["teacher"] == choice.reason
    weights = alone.memory.parts["parameters"]
    assert taught.memory.parts["parameters"] == 2 * weights
    assert taught.evaluation_memory.parts["parameters"] == 2 * weights
