"""What `myna plan` answers: a plan, whether a batch fits, or which family of models to take."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from myna.audio.augment.chain import Chain
from myna.data.catalog import Catalog
from myna.data.shards.index import ShardIndex
from myna.errors import PlanError
from myna.plan.advise import advise
from myna.plan.from_config import plan_for
from myna.plan.memory.predict import memory_model_here
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.profiles.model import ModelProfile
from myna.plan.speed import measure_producer
from myna.plan.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.config import Config
    from myna.plan.evidence import LanguageResources, Latency
    from myna.plan.speed import ProducerRate
    from myna.plan.training_plan import TrainingPlan
    from myna.samples import Utterance

LONGEST_SECONDS = 30.0  # of a clip, where nothing is said
MAX_CLIP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Question:
    """The options of `myna plan`; "" and 0 are not given."""

    gpu: str = ""
    memory_gb: float = 0
    model: str = ""
    hours: float = 0
    mean_seconds: float = 8
    longest_seconds: float = 0  # 30 where it is needed
    check: str = ""  # "4x8": clips of a micro-batch, micro-batches of a step
    advise: bool = False
    latency: str = "offline"  # or streaming
    language: str = "poor"  # what published models heard of it: rich, poor, unseen


@dataclass(frozen=True, slots=True)
class Answers:
    """Several answers, one below the other."""

    kind: str
    rows: Sequence[Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {self.kind: [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        return "\n".join(str(row) for row in self.rows)


def answer(config: Config, question: Question) -> TrainingPlan | Answers:
    """Answer from the configuration, and from this machine and its catalog where the question names no others.

    Raises:
        PlanError: nothing fits, or what is asked is no question.
    """
    _check(question)
    hardware = _hardware(question, config.training.safety_margin)
    if question.advise:
        ranked = advise(
            question.hours or _dataset(config, question).total_hours,
            hardware,
            latency=cast("Latency", question.latency),  # advise refuses other words
            language=cast("LanguageResources", question.language),
            longest_seconds=question.longest_seconds or LONGEST_SECONDS,
        )
        return Answers("advice", ranked)
    model = ModelProfile.from_config(_with_model(config, question.model) if question.model else config)
    if question.check:
        clips, parts = _batch(question.check)
        longest = question.longest_seconds or _dataset(config, question).max_seconds
        return Answers("verdicts", verdicts(hardware, model, clips, parts, longest, ask=memory_model_here))
    producer = None if question.hours or question.model else _producer(config)
    dataset, teacher = _dataset(config, question), _teacher(config)
    return plan_for(config, hardware, dataset, model, producer=producer, teacher=teacher, ask=memory_model_here)


def _teacher(config: Config) -> ModelProfile | None:
    name = config.distillation.teacher
    return ModelProfile.from_folder(config.model.pretrained if name == "self" else name) if name else None


def _producer(config: Config) -> ProducerRate | None:
    """How fast a core of this machine prepares the recordings for the configuration's model."""
    from myna.models.processors import build_processor

    utterances = _from_shards(config) if config.data.shards else _from_catalog(config)
    processor = build_processor(config, [utterance.text for utterance in utterances])
    return measure_producer(utterances, processor, Chain(config.augment) if config.augment else None)


def _from_catalog(config: Config) -> list[Utterance]:
    with Catalog(config.data.db) as catalog:
        return list(catalog.utterances(catalog.version(config.data.version).version_id, split="train"))


def _from_shards(config: Config) -> list[Utterance]:
    index = ShardIndex(config.data.shards)
    if not index.version_id.startswith(config.data.version):
        index.require(config.data.version)
    return index.utterances("train")


def _check(question: Question) -> None:
    """Refuse figures that nothing has.

    Raises:
        PlanError: with every one of them.
    """
    most = {
        "memory_gb": 10_000.0,
        "hours": math.inf,
        "mean_seconds": MAX_CLIP_SECONDS,
        "longest_seconds": MAX_CLIP_SECONDS,
    }
    conflicts = [
        f"--{name.replace('_', '-')}: expected 0 to {limit:g}; received {getattr(question, name):g}"
        for name, limit in most.items()
        if not 0 <= getattr(question, name) <= limit
    ]
    if question.advise and question.check:
        conflicts.append("--advise, --check: expected one of them; received both")
    if question.longest_seconds and not (question.hours or question.check or question.advise):
        conflicts.append("--longest-seconds: expected --hours with it; received none")
    if conflicts:
        raise PlanError(conflicts)


def _with_model(config: Config, name: str) -> Config:
    """The configuration with another model to start from; what it freezes stays frozen."""
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": name})})


def _hardware(question: Question, safety_margin: float) -> HardwareProfile:
    gpu, memory_gb = question.gpu.strip(), question.memory_gb
    if gpu.lower() == "cpu" or not (gpu or memory_gb):
        return (
            HardwareProfile.of_memory(memory_gb, safety_margin, "cpu")
            if gpu and memory_gb
            else _here(gpu, safety_margin)
        )
    if not gpu:
        return HardwareProfile.of_memory(memory_gb, safety_margin)
    card = HardwareProfile.of_card(gpu, safety_margin)
    size = int(memory_gb * 1e9) or card.gpu_memory_bytes  # less than the whole card: a MIG slice
    if size > card.gpu_memory_bytes:
        whole = f"the {card.gpu_memory_bytes / 1e9:.2f} that a {card.gpu_name} has"
        raise PlanError([f"--memory-gb: expected at most {whole}; received {memory_gb:g}"])
    return replace(card, gpu_memory_bytes=size, gpu_available_bytes=size)


def _here(gpu: str, safety_margin: float) -> HardwareProfile:
    here = HardwareProfile.detect(safety_margin)
    return replace(here, gpu_count=0, gpu_name=None) if gpu else here


def _dataset(config: Config, question: Question) -> DatasetProfile:
    if question.hours:
        return DatasetProfile.from_summary(
            question.hours, question.mean_seconds, question.longest_seconds or LONGEST_SECONDS
        )
    if not config.data.shards:
        return DatasetProfile.from_catalog(config.data.db, config.data.version)
    utterances = _from_shards(config)
    seconds = [utterance.duration_seconds for utterance in utterances]
    characters = sum(len(utterance.text) for utterance in utterances)
    return DatasetProfile.from_durations(seconds, labels_per_second=characters / max(sum(seconds), 1e-9))


def _batch(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:x\s*(\d{1,6}))?\s*", text)
    if not found or not int(found[1]) or found[2] == "0":
        raise PlanError([f"--check: expected clips x micro-batches, such as 4x8; received {text!r}"])
    return int(found[1]), int(found[2] or 1)
