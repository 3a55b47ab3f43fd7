"""From an effective batch, a dataset, a card and a memory model to every value of a run, each with its reason.

The micro-batch is sized for the longest clips, the worst that a Trainer with batches of a fixed number of clips can
meet. Myna's own feed gets its budget in padded seconds besides, checked through all of its buckets.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from myna.errors import PlanError
from myna.feed.epoch import BatchBudget
from myna.plan.choices.batch import (
    BatchPlan,
    Case,
    batch_reason,
    checkpointing_reason,
    effective_reason,
    may_run_by_clip,
    plan_batch,
)
from myna.plan.choices.cuts import cut
from myna.plan.choices.feed_budget import GivenFeed, feed_budget
from myna.plan.choices.overrides import as_given, capacity_bytes, limited, read_overrides
from myna.plan.choices.precision import attention_choice, device_choices, optimizer_choice, precision_choice
from myna.plan.choices.schedule import data_choices, duration_choices, step_choices
from myna.plan.choices.ways import CHECKPOINTING_COST, largest_in_a_row
from myna.plan.memory.predict import memory_model
from myna.plan.render import gib, needs
from myna.plan.request import MemoryRequest, StepSettings
from myna.plan.speed import predict_speed, sustained_rate
from myna.plan.training_plan import GB, Choice, FeedBudget, MemoryPrediction, TrainingPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from myna.plan.choices.overrides import Overrides
    from myna.plan.choices.ways import AskMemory
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile
    from myna.plan.speed import ProducerRate, SpeedPrediction

MOST_EVALUATION_CLIPS = 64  # more in a batch gain no speed


def choose(
    hardware: HardwareProfile,
    dataset: DatasetProfile,
    model: ModelProfile,
    *,
    target_batch_size: int = 32,
    num_epochs: float = 20,
    max_steps: int = -1,
    learning_rate: float = 3e-4,
    overrides: Mapping[str, Any] | None = None,
    given_feed: GivenFeed | None = None,
    producer: ProducerRate | None = None,
    teacher: ModelProfile | None = None,
    ask: AskMemory = memory_model,
) -> TrainingPlan:
    """Plan a run.

    Args:
        hardware: the device that trains, here or elsewhere.
        dataset: durations, hours and bytes.
        model: what is trained, and how: its spec says what is frozen, LoRA and 4-bit layers.
        target_batch_size: clips of an optimizer step, all devices together.
        num_epochs: passes over the dataset.
        max_steps: optimizer steps, in the place of epochs; -1: as many as the epochs have.
        learning_rate: peak of the schedule; taken as it is.
        overrides: keys of OptimalConfig, `optimizer`, `attention`, `torch_compile` and `front_end_by_clip`; everything
            else is chosen around them.
        given_feed: what is given of Myna's own feed.
        producer: how fast one core prepares audio; without it the cores that are needed are not predicted.
        teacher: that the model learns from besides; it shares the device.
        ask: gives the memory model of a request.

    Raises:
        PlanError: overrides that contradict one another or do not fit, or nothing that fits at all; with what would.
    """
    started = time.monotonic()
    given = read_overrides(overrides or {}, hardware)
    target = given.get("effective_batch_size", target_batch_size)
    case = _case(limited(hardware, given), dataset, model, teacher, given, ask)
    step = _step(case)
    batch = plan_batch(case, _settings(case, step), target)
    evaluation, evaluation_clips, conflicts = _evaluation(batch)
    if conflicts := [*given.conflicts, *batch.conflicts, *conflicts]:
        raise PlanError(conflicts)
    epochs = given.get("num_train_epochs", num_epochs)
    choices = {
        **_batch_choices(batch, target, evaluation_clips, step["precision"]),
        **data_choices(batch.case.hardware, batch.case.dataset),
        **duration_choices(batch, dataset),
        "num_train_epochs": Choice(num_epochs, "as asked for"),
        "learning_rate": Choice(learning_rate, "as asked for"),
        **step_choices(batch.case.dataset, batch.effective, epochs, max_steps),
        **_memory_choices(case.hardware),
    }
    choices |= {key: Choice(given.get(key), as_given(given.get(key), choices[key])) for key in choices if key in given}
    step["front_end_by_clip"] = _by_clip_choice(batch)
    if teacher is not None:
        step["teacher"] = _teacher_choice(teacher)

    def plan_again(values: Mapping[str, Any]) -> TrainingPlan:
        return choose(
            hardware,
            dataset,
            model,
            target_batch_size=target_batch_size,
            num_epochs=num_epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            given_feed=given_feed,
            overrides={**(overrides or {}), **values},
            producer=producer,
            teacher=teacher,
            ask=ask,
        )

    feed = _feed(batch, target, given_feed or GivenFeed())
    return TrainingPlan(
        hardware=case.hardware,
        dataset=dataset,
        model=model,
        settings=batch.way.settings,
        choices=choices,
        step_choices=step,
        feed=feed,
        memory=_at_longest(batch),
        evaluation_memory=evaluation,
        speed=_speed(batch, feed, epochs, max_steps, producer),
        notes=tuple(_notes(batch)),
        planning_seconds=time.monotonic() - started,
        plan_again=plan_again,
    )


def _case(
    hardware: HardwareProfile,
    dataset: DatasetProfile,
    model: ModelProfile,
    teacher: ModelProfile | None,
    given: Overrides,
    ask: AskMemory,
) -> Case:
    if (longest := given.get("max_audio_duration_seconds")) is not None:
        dataset = cut(dataset, longest)
    request = MemoryRequest(model.spec, teacher=teacher.spec if teacher else None)
    if dataset.labels_per_second:
        request = replace(request, labels_per_second=round(dataset.labels_per_second, 1))
    return Case(hardware, dataset, model, request, given, ask)


def _step(case: Case) -> dict[str, Choice]:
    """Precision, optimizer and attention kernel."""
    choices = {
        "precision": precision_choice(case.hardware, case.model.hidden_size),
        "optimizer": optimizer_choice(case.hardware),
        "attention": attention_choice(case.hardware, padding_mask=not case.is_padded),
        **device_choices(case.hardware),
    }
    for key in ("optimizer", "attention", "torch_compile"):
        if key in case.overrides:
            choices[key] = Choice(case.overrides.get(key), as_given(case.overrides.get(key), choices[key]))
    precision = choices["precision"].value
    for key in ("bf16", "fp16"):
        if case.overrides.get(key) is True:
            precision = key
        elif case.overrides.get(key) is False and precision == key:
            precision = "fp32"
    if precision != choices["precision"].value:
        choices["precision"] = Choice(precision, as_given(precision, choices["precision"]))
    return choices


def _settings(case: Case, step: Mapping[str, Choice]) -> StepSettings:
    return StepSettings(
        device=case.hardware.device,
        precision=step["precision"].value,
        optimizer=step["optimizer"].value,
        attention=step["attention"].value,
    )


def _at_longest(batch: BatchPlan) -> MemoryPrediction:
    case = batch.case
    then = [(batch.per_device, seconds) for seconds in case.shorter_seconds()]
    return MemoryPrediction.of(batch.way.model, batch.per_device, case.longest_seconds, case.limit_bytes, then)


def _evaluation(batch: BatchPlan) -> tuple[MemoryPrediction, int, list[str]]:
    """Memory of evaluation, clips of its batches, and what stands against a number that was given."""
    case = batch.case
    settings = replace(batch.way.settings, gradient_checkpointing=False, accumulates=False)
    model = case.ask(replace(case.request, settings=settings, activity="evaluate"))
    seconds = case.longest_seconds
    # Between two training steps the gradients are gone and the optimizer's states are not.
    limit = case.limit_bytes - batch.way.model.peak(1, seconds).parts.get("optimizer_state", 0)
    given = case.overrides.get("per_device_eval_batch_size")
    lengths = (seconds, *case.shorter_seconds())
    largest = largest_in_a_row(model, lengths, limit, at_most=max(MOST_EVALUATION_CLIPS, given or 0))
    conflicts = []
    if largest == 0:
        conflicts = [f"evaluation: expected room for a clip; it takes {needs(model, 1, seconds, limit)}"]
    elif given and given > largest:
        conflicts = [
            f"per_device_eval_batch_size: expected at most {largest} at {seconds:.2f} s; received {given}, which "
            f"would take {needs(model, given, seconds, limit)}"
        ]
    clips = given if given and not conflicts else max(1, min(largest, MOST_EVALUATION_CLIPS))
    return MemoryPrediction.of(model, clips, seconds, limit), clips, conflicts


def _batch_choices(batch: BatchPlan, target: int, evaluation_clips: int, precision: Choice) -> dict[str, Choice]:
    settings, seconds = batch.way.settings, batch.case.longest_seconds
    parts = f"{batch.accumulation} micro-batches of {batch.per_device} make the step"
    bound = "more gain no speed" if evaluation_clips >= MOST_EVALUATION_CLIPS else "no more fit"
    return {
        "per_device_train_batch_size": Choice(batch.per_device, batch_reason(batch)),
        "per_device_eval_batch_size": Choice(
            evaluation_clips, f"no gradients are kept; {bound} at {seconds:.2f} s beside the optimizer's states"
        ),
        "gradient_accumulation_steps": Choice(
            batch.accumulation, parts if batch.accumulation > 1 else "the step fits at once"
        ),
        "effective_batch_size": Choice(batch.effective, effective_reason(batch, target)),
        "gradient_checkpointing": Choice(
            settings.gradient_checkpointing, checkpointing_reason(batch, CHECKPOINTING_COST)
        ),
        "fp16": Choice(settings.precision == "fp16", precision.reason),
        "bf16": Choice(settings.precision == "bf16", precision.reason),
    }


def _memory_choices(hardware: HardwareProfile) -> dict[str, Choice]:
    reserve = (1 - hardware.safety_margin) * capacity_bytes(hardware)
    return {
        "memory_reserve_gb": Choice(
            math.ceil(reserve / GB * 100) / 100,
            f"of {gib(capacity_bytes(hardware))}, for what no plan foresees: other processes, drivers, libraries",
        ),
        "max_memory_usage_percent": Choice(
            round(100 * hardware.safety_margin, 2), f"the safety margin of {hardware.safety_margin:g}"
        ),
    }


def _by_clip_choice(batch: BatchPlan) -> Choice:
    by_clip = batch.way.settings.front_end_by_clip
    if "front_end_by_clip" in batch.case.overrides:
        return Choice(by_clip, "set by you")
    if not may_run_by_clip(batch.case.model):
        return Choice(False, "the model has no frozen convolutional front end")
    if by_clip:
        return Choice(True, "its forward is the peak of a checkpointed step; clip by clip only one clip's is alive")
    return Choice(False, "it would not raise the batch")


def _teacher_choice(teacher: ModelProfile) -> Choice:
    return Choice(
        teacher.name,
        f"its {teacher.parameters / 1e6:.1f} M weights (up to {gib(teacher.parameter_bytes)}) and its forward pass are "
        "in every prediction of memory",
    )


def _feed(batch: BatchPlan, target: int, given: GivenFeed) -> FeedBudget:
    """The budget of Myna's own feed around what is given of it and of the batch.

    Raises:
        PlanError: the micro-batches that are given do not hold the step that is given.
    """
    case, way = batch.case, batch.way
    clips = case.overrides.get("per_device_train_batch_size")
    parts = case.overrides.get("gradient_accumulation_steps")
    seconds, reason = given.step_seconds, "as given"
    if seconds is None and clips:  # as `BatchBudget.from_longest`
        parts = parts or 1
        seconds = clips * parts * case.devices * case.longest_seconds
        reason = f"{clips} of the longest clips a micro-batch"
    elif seconds is None:
        seconds = max(case.longest_seconds, target * case.mean_seconds)
        reason = f"{target} clips of {case.mean_seconds:.2f} s on average"
    step_seconds = math.ceil(100 * seconds - 1e-6) / 100

    def budget(settings: StepSettings, accumulation: int | None) -> FeedBudget:
        return feed_budget(
            case.ask(replace(case.request, settings=settings)),
            case.durations_seconds,
            step_seconds=step_seconds,
            num_buckets=given.num_buckets,
            gpu_count=case.devices,
            limit_bytes=case.limit_bytes,
            accumulation=accumulation,
        )

    found = budget(way.settings, parts)
    if found.feed_accumulation > 1 and not way.settings.accumulates:
        found = budget(replace(way.settings, accumulates=True), parts)
    if parts and given.step_seconds and (least := budget(way.settings, None).feed_accumulation) > parts:
        wanted = f"expected at least {least} for feed.step_seconds={given.step_seconds:g}"
        raise PlanError([f"gradient_accumulation_steps: {wanted}; received {parts}"])
    return replace(found, reason=f"{reason}; {found.reason}")


def _speed(
    batch: BatchPlan, feed: FeedBudget, num_epochs: float, max_steps: int, producer: ProducerRate | None
) -> SpeedPrediction | None:
    """How long Myna's own feed takes through it all; None for a card of which nothing is known."""
    case = batch.case
    rate = sustained_rate(case.hardware, batch.way.settings.precision)
    if rate is None:
        return None
    return predict_speed(
        batch.way.model.flops,
        rate,
        case.durations_seconds,
        utterances=case.dataset.utterances,
        budget=BatchBudget(feed.step_seconds, feed.num_buckets),
        accumulation=feed.feed_accumulation,
        gpu_count=case.devices,
        num_epochs=num_epochs,
        max_steps=max_steps,
        audio_hours=case.dataset.total_hours,
        producer=producer,
    )


def _notes(batch: BatchPlan) -> list[str]:
    notes = []
    if batch.lost_share:
        notes.append(
            f"Clips over {batch.case.longest_seconds:.1f} s do not fit even alone and are left out: "
            f"{100 * batch.lost_share:.2f} % of the hours."
        )
    dataset = batch.case.dataset
    if dataset.is_sampled and dataset.measured > len(dataset.quantile_seconds):  # not a summary
        notes.append(
            f"Of {dataset.utterances:,} lengths {dataset.measured:,} were measured: a clip over "
            f"{dataset.max_seconds:.1f} s would need more memory than is planned."
        )
    return notes
