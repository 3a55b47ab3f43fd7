"""The planner's values in the place of every `auto` of a configuration, before the run begins."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed
from accelerate import PartialState

from myna.audio.augment.chain import Chain
from myna.models.audio_context import context_to_learn
from myna.plan.from_config import filled, is_open, plan_at_once, plan_for
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.profiles.model import ModelProfile
from myna.plan.speed import measure_producer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.config import Config
    from myna.models.recognizer import Recognizer
    from myna.plan.training_plan import TrainingPlan
    from myna.samples import Utterance


def with_plan(
    config: Config, recognizer: Recognizer, train_split: Sequence[Utterance], teacher: Recognizer | None = None
) -> tuple[Config, TrainingPlan | None]:
    """Plan the run, unless nothing is left open.

    Under torchrun the first rank plans, and all others take its values.

    Args:
        config: of the run; the values it gives are kept.
        recognizer: what is trained.
        train_split: what it is trained on.
        teacher: that it learns from besides.

    Returns:
        The configuration without `auto`, and the plan; no plan where nothing was open, and on ranks but the first.

    Raises:
        PlanError: what the configuration gives does not fit into memory, or nothing does.
    """
    if not is_open(config):
        return config, None
    plan: TrainingPlan | None = None
    if int(os.environ.get("RANK", "0")) == 0:
        plan = plan_run(config, recognizer, train_split, teacher)
        config = filled(config, plan)
    return _as_first_rank(config), plan


def plan_run(
    config: Config, recognizer: Recognizer, train_split: Sequence[Utterance], teacher: Recognizer | None = None
) -> TrainingPlan:
    """The plan of a run on this machine.

    Raises:
        PlanError: as `with_plan`.
    """
    seconds = np.array([utterance.duration_seconds for utterance in train_split])  # a plan pads by itself
    sample = train_split[:: max(1, len(train_split) // 1000)]
    labels = sum(len(recognizer.processor.labels(utterance)) for utterance in sample)
    dataset = DatasetProfile.from_durations(
        seconds, labels_per_second=labels / sum(utterance.duration_seconds for utterance in sample)
    )
    hardware = _share_of_this_rank(HardwareProfile.detect(config.training.safety_margin))
    model = ModelProfile.of(recognizer.model, name=config.model.pretrained or config.model.family)
    model = replace(model, context=context_to_learn(config.model))
    taught_by = ModelProfile.of(teacher.model, name=config.distillation.teacher) if teacher else None
    augment = Chain(config.augment) if config.augment else None
    producer = measure_producer(train_split, recognizer.processor, augment)
    at_once = plan_at_once(config, hardware, dataset, model, producer, taught_by) if hardware.device == "cpu" else None
    return at_once or plan_for(config, hardware, dataset, model, producer=producer, teacher=taught_by)


def _share_of_this_rank(hardware: HardwareProfile) -> HardwareProfile:
    """A card for each rank and the cores of all of them, and of the memory what falls to each rank on the machine.

    Ranks without cards are planned for as one: each is given its share of the cores as well.
    """
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cards = int(os.environ.get("WORLD_SIZE", "1")) if hardware.gpu_count else 0
    return replace(
        hardware,
        gpu_count=cards,
        ram_available_bytes=hardware.ram_available_bytes // ranks_here,
        cpu_cores=hardware.cpu_cores / ranks_here * max(1, cards),
    )


def _as_first_rank(config: Config) -> Config:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return config
    PartialState(cpu=not torch.accelerator.is_available())  # starts the process group, as the Trainer would later
    values: list[Any] = [config]
    torch.distributed.broadcast_object_list(values, src=0)
    result: Config = values[0]
    return result
