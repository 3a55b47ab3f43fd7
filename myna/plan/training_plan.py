"""The nouns of a plan: a value with its reason, the feed's budget, the predicted memory, and all of it together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from myna.plan.optimal_config import OptimalConfig
from myna.plan.render import gib, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from myna.plan.memory.model import MemoryModel
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile
    from myna.plan.request import StepSettings
    from myna.plan.speed import SpeedPrediction

GB = 10**9


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of the plan and why it is this one."""

    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class FeedBudget:
    """How Myna's own feed cuts an epoch: by padded seconds, so short clips share a micro-batch with many others.

    `step_seconds` and `num_buckets` are what `BatchBudget` takes; each rank splits a step into `feed_accumulation`
    micro-batches.
    """

    batch_seconds: float  # padded seconds of a micro-batch
    step_seconds: float  # padded seconds of an optimizer step, all ranks together
    feed_accumulation: int
    num_buckets: int
    clips_per_bucket: tuple[tuple[float, int], ...]  # (upper edge in seconds, most clips of a micro-batch)
    memory: MemoryPrediction  # of its costliest micro-batch, which a run begins with
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """What a micro-batch needs, against what there is."""

    clips: int
    seconds: float
    peak_bytes: int  # live tensors
    reserved_bytes: int  # what the caching allocator (cuda) or the process heap (cpu) holds
    limit_bytes: int
    phase: str  # forward, backward or optimizer: when the peak comes
    parts: Mapping[str, int]  # bytes at the peak
    traced: bool  # False: from the closed formula, on the safe side

    @classmethod
    def of(
        cls,
        model: MemoryModel,
        clips: int,
        seconds: float,
        limit_bytes: int,
        then: Sequence[tuple[int, float]] = (),
    ) -> MemoryPrediction:
        """Ask a memory model about one shape of micro-batch, and those that follow it."""
        peak = model.peak(clips, seconds)
        reserved = model.reserved(clips, seconds, then)
        return cls(clips, seconds, peak.bytes, reserved, limit_bytes, peak.phase, dict(peak.parts), model.exact)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that was chosen for a run, what it was chosen from, and what it is predicted to need.

    `str(plan)` is a tree of it.
    """

    hardware: HardwareProfile
    dataset: DatasetProfile
    model: ModelProfile
    settings: StepSettings
    choices: Mapping[str, Choice]  # the keys of OptimalConfig
    step_choices: Mapping[str, Choice]  # precision, optimizer, attention, torch_compile, ...
    feed: FeedBudget
    memory: MemoryPrediction  # of `per_device_train_batch_size` of the longest clips
    evaluation_memory: MemoryPrediction
    speed: SpeedPrediction | None
    notes: tuple[str, ...]  # proposals and warnings, never acted upon silently
    planning_seconds: float
    plan_again: Callable[[Mapping[str, Any]], TrainingPlan] = field(repr=False, compare=False)

    @property
    def config(self) -> OptimalConfig:
        """The values alone, under the keys that are saved."""
        return OptimalConfig(**{key: choice.value for key, choice in self.choices.items()}, plan=self)

    def override(self, **values: Any) -> TrainingPlan:
        """Plan again around values that are given; the memory model of a setting already asked for is reused.

        Raises:
            PlanError: the values do not go together or do not fit; it names the largest ones that do.
        """
        return self.plan_again(values)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists: every value, reason, profile and prediction."""
        return {
            "config": self.config.to_json(),
            "reasons": {key: choice.reason for key, choice in {**self.choices, **self.step_choices}.items()},
            "step": {key: choice.value for key, choice in self.step_choices.items()},
            "settings": asdict(self.settings),
            "feed": asdict(self.feed),
            "memory": asdict(self.memory),
            "evaluation_memory": asdict(self.evaluation_memory),
            "speed": self.speed.to_json() if self.speed else None,
            "hardware": self.hardware.to_json(),
            "dataset": self.dataset.to_json(),
            "model": self.model.to_json(),
            "notes": list(self.notes),
            "planning_seconds": round(self.planning_seconds, 3),
        }

    @property
    def summary(self) -> str:
        """One line: how a step is split, and what it takes."""
        seconds, clips = self.feed.clips_per_bucket[-1]
        memory = self.feed.memory
        basis = "predicted" if memory.traced else "at most"
        parts = self.feed.feed_accumulation
        return (
            f"Planned: steps of {self.feed.step_seconds:g} s of speech in {parts} micro-batch{'es' * (parts > 1)} "
            f"(up to {clips} clips of {seconds:g} s), {self.settings.precision}"
            f"{', checkpointed' if self.settings.gradient_checkpointing else ''}; memory {basis} "
            f"{gib(memory.peak_bytes)} of {gib(memory.limit_bytes)}. Every value and its reason: plan.json"
        )

    def __str__(self) -> str:
        return tree(self.config)
