"""What tests of the planner share: a card, a dataset, a model, and memory that follows a formula one can do by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from myna.plan.memory.model import MemoryModel, Peak
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.profiles.model import ModelProfile
from myna.plan.request import MemoryRequest, ModelSpec, StepSettings

GB = 10**9


def card(memory_gb: float = 10, **fields: Any) -> HardwareProfile:
    """A card whose limit is `memory_gb` x 10^9 bytes exactly, in a machine of 8 cores, 32 GB and a free disk of 100."""
    host = {"cpu_name": "test", "cpu_cores": 8.0, "ram_bytes": 32 * GB, "ram_available_bytes": 32 * GB}
    profile = HardwareProfile(
        gpu_name="Test 10",
        gpu_count=1,
        gpu_memory_bytes=int(memory_gb * GB) + 512 * 2**20,
        gpu_available_bytes=100 * GB,
        compute_capability=(8, 6),
        cuda_version=None,
        disk_free_bytes=100 * GB,
        dtypes=("fp32", "fp16", "bf16"),
        flash_attention=True,
        safety_margin=1.0,
        is_present=False,
        **host,
    )
    return replace(profile, **fields)


def dataset(longest_seconds: float = 30, mean_seconds: float = 8, utterances: int = 1000) -> DatasetProfile:
    """Lengths spread evenly below the mean and above it, up to the longest."""
    below = np.linspace(1, 2 * mean_seconds - 1, utterances - 1)
    return DatasetProfile.from_durations([*below, longest_seconds], labels_per_second=15)


def model(parameters: int = 100_000_000, family: str = "wav2vec2", frozen: Sequence[str] | None = None) -> ModelProfile:
    """A model of a name only; its front end is frozen."""
    frozen = (f"{family}.feature_extractor",) if frozen is None else tuple(frozen)
    spec = ModelSpec("a:A", "a:B", {}, name="test-model", frozen=frozen)
    return ModelProfile(
        name="test-model",
        family=family,
        parameters=parameters,
        trainable=parameters,
        hidden_size=512,
        layers=12,
        parameter_bytes=4 * parameters,
        gradient_bytes=4 * parameters,
        optimizer_bytes=8 * parameters,
        spec=spec,
    )


class FormulaMemory(MemoryModel):
    """State, and bytes a clip and second: 50 MB plain, 10 checkpointed with a front end of 20, 5 to evaluate."""

    def __init__(self, request: MemoryRequest, parameters: int = 100_000_000) -> None:
        super().__init__(request, parameters, parameters, exact=True)
        settings = request.settings
        is_lora, trains = request.model.lora is not None, request.activity == "train"
        state = 0 if is_lora else {"adamw_8bit": 2, "adafactor": 0}.get(settings.optimizer, 8)
        self.held = {"parameters": 4 * parameters}
        if trains:
            self.held |= {"gradients": 0 if is_lora else 4 * parameters, "optimizer_state": state * parameters}
        self.rate, self.once = 50_000_000, 0
        if settings.gradient_checkpointing:
            self.rate, self.once = (10_000_000, 20_000_000) if settings.front_end_by_clip else (30_000_000, 0)
        if not trains:
            self.rate, self.once = 5_000_000, 0
        self.waiting = 100_000_000 if settings.accumulates else 0

    def flops(self, clips: int, seconds: float) -> float:
        return 6.0 * self.parameters * clips * seconds * 50

    def peak(self, clips: int, seconds: float) -> Peak:
        activations = int((self.rate * clips + self.once) * seconds) + self.waiting
        parts = {**self.held, "activations": activations}
        return Peak(sum(parts.values()), "backward", parts)

    def reserved(self, clips: int, seconds: float, then: Sequence[tuple[int, float]] = ()) -> int:
        return max(self.peak(*batch).bytes for batch in [(clips, seconds), *then])

    def fits(self, clips: int, seconds: float, limit_bytes: int, then: Sequence[tuple[int, float]] = ()) -> bool:
        return self.reserved(clips, seconds, then) <= limit_bytes


class Asked:
    """Answers by the formula and remembers what was asked."""

    def __init__(self, parameters: int = 100_000_000) -> None:
        self.parameters = parameters
        self.requests: list[MemoryRequest] = []

    def __call__(self, request: MemoryRequest) -> FormulaMemory:
        self.requests.append(request)
        return FormulaMemory(request, self.parameters)

    @property
    def training_settings(self) -> list[StepSettings]:
        return [request.settings for request in self.requests if request.activity == "train"]
