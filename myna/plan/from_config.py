"""Between a configuration of Myna and a plan: what it fixes, what a plan fills in, and the plan itself."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from myna.audio.augment.chain import Chain
from myna.errors import ModelError, PlanError
from myna.models.audio_context import WINDOW_SECONDS
from myna.plan.choices.choose import choose
from myna.plan.choices.feed_budget import GivenFeed
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.memory.predict import memory_model
from myna.plan.memory.stretched import stretched

if TYPE_CHECKING:
    from myna.config import Config
    from myna.plan.choices.ways import AskMemory
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile
    from myna.plan.speed import ProducerRate
    from myna.plan.training_plan import TrainingPlan

# Keys of the training section that a plan knows under the same names.
PLANNED = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "bf16",
    "fp16",
    "dataloader_num_workers",
)


def plan_for(
    config: Config,
    hardware: HardwareProfile,
    dataset: DatasetProfile,
    model: ModelProfile,
    *,
    producer: ProducerRate | None = None,
    teacher: ModelProfile | None = None,
    ask: AskMemory = memory_model,
) -> TrainingPlan:
    """The plan of the run that a configuration describes, around the values it fixes.

    Args:
        config: of the run.
        hardware: the device that trains.
        dataset: what it trains on.
        model: what it trains.
        producer: how fast a core prepares its audio, where that was measured.
        teacher: that it learns from besides.
        ask: gives the memory model of a request.

    Raises:
        PlanError: what it fixes does not fit into memory, or nothing does.
    """
    settings, feed = config.training, config.feed
    return choose(
        hardware,
        dataset,
        model,
        target_batch_size=settings.effective_batch_size,
        num_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        overrides=fixed_values(config) | fixed_step(config),
        given_feed=GivenFeed(feed.num_buckets, None if feed.step_seconds == "auto" else feed.step_seconds),
        producer=producer,
        teacher=teacher,
        ask=partial(stretched, ask, augmented(config), most_seconds=_most_seconds(config)),
    )


def plan_at_once(
    config: Config,
    hardware: HardwareProfile,
    dataset: DatasetProfile,
    model: ModelProfile,
    producer: ProducerRate | None = None,
    teacher: ModelProfile | None = None,
) -> TrainingPlan | None:
    """The plan by a formula that never says too little, where by it everything fits as asked for; else None.

    Small models on a processor have memory to spare: to trace their step would cost seconds and change nothing.
    """
    try:
        plan = plan_for(config, hardware, dataset, model, producer=producer, teacher=teacher, ask=closed_formula)
    except (PlanError, ModelError):
        return None
    is_as_asked = plan.feed.feed_accumulation == 1 and not plan.settings.gradient_checkpointing
    drops_nothing = not plan.notes  # a clip that a trace would find to fit is not left out by a formula
    return plan if is_as_asked and drops_nothing and not plan.settings.front_end_by_clip else None


def fixed_values(config: Config) -> dict[str, Any]:
    """What a configuration does not leave open, under a plan's keys."""
    values = {key: getattr(config.training, key) for key in PLANNED}
    values["max_audio_duration_seconds"] = config.training.max_duration_seconds
    values["front_end_by_clip"] = config.model.front_end_by_clip if config.model.family == "wav2vec2" else "auto"
    return {key: value for key, value in values.items() if value != "auto"}


def fixed_step(config: Config) -> dict[str, Any]:
    """What a configuration does not leave open of how a step is taken; nothing of this is worth a plan alone."""
    values: dict[str, Any] = {"optimizer": config.training.optim, "torch_compile": config.training.torch_compile}
    if config.training.fsdp:  # which goes with neither
        values |= {"torch_compile": False, "fp16": False}
    return {key: value for key, value in values.items() if value != "auto"}


def augmented(config: Config) -> Chain:
    """The transforms that can make a clip cost more; none for Whisper in full context, whose clips fill its window."""
    fills_window = config.model.family == "whisper" and config.model.audio_context == "full"
    return Chain(() if fills_window else config.augment)


def _most_seconds(config: Config) -> float:
    return WINDOW_SECONDS if config.model.family == "whisper" else math.inf


def is_open(config: Config) -> bool:
    """Whether anything is left to a plan."""
    return len(fixed_values(config)) < len(PLANNED) + 1 + (config.model.family == "wav2vec2")


def filled(config: Config, plan: TrainingPlan) -> Config:
    """The configuration with a plan's values for everything it left open.

    Where batch sizes are open, our own feed's budget takes their place: it cuts steps by seconds, not by clips.
    """
    training = config.training
    values = {key: plan.choices[key].value for key in PLANNED}
    values["per_device_train_batch_size"] = plan.feed.clips_per_bucket[-1][1]
    values["gradient_accumulation_steps"] = plan.feed.feed_accumulation
    values["max_duration_seconds"] = plan.choices["max_audio_duration_seconds"].value
    values["optim"] = plan.step_choices["optimizer"].value
    values["torch_compile"] = plan.step_choices["torch_compile"].value
    open_values = {key: value for key, value in values.items() if getattr(training, key) == "auto"}
    changes: dict[str, Any] = {"training": training.model_copy(update=open_values)}
    if training.per_device_train_batch_size == "auto" and config.feed.step_seconds == "auto":
        changes["feed"] = config.feed.model_copy(update={"step_seconds": plan.feed.step_seconds})
    if config.model.front_end_by_clip == "auto":
        by_clip = plan.step_choices["front_end_by_clip"].value
        changes["model"] = config.model.model_copy(update={"front_end_by_clip": by_clip})
    return config.model_copy(update=changes)
