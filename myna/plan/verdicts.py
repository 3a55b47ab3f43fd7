"""Does this configuration fit? One answer for each way of taking the step, each with its because."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from myna.plan.choices.batch import may_run_by_clip
from myna.plan.choices.precision import optimizer_choice, precision_choice
from myna.plan.choices.ways import way_name, ways_to_try
from myna.plan.memory.predict import memory_model
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.profiles.model import ModelProfile
from myna.plan.render import needs
from myna.plan.request import MemoryRequest, StepSettings

if TYPE_CHECKING:
    from myna.plan.choices.ways import AskMemory

PUBLISHED_LONGEST_SECONDS = 29.87
# Card, model, clips of a micro-batch and accumulation, as an earlier system's guide printed them for 60 h of speech in
# clips of 8.12 s on average and an effective batch of 32.
PUBLISHED_ROWS = (
    ("L4", "wav2vec2-xls-r-1b", 4, 8),
    ("A100-40", "wav2vec2-xls-r-1b", 8, 4),
    ("V100-32", "wav2vec2-xls-r-1b", 8, 4),
    ("RTX 3090", "wav2vec2-xls-r-300m", 32, 1),
    ("T4", "wav2vec2-xls-r-300m", 16, 2),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether micro-batches of a size fit when the step is taken in one way."""

    card: str
    model: str
    way: str
    per_device: int
    accumulation: int
    seconds: float
    fits: bool
    peak_bytes: int
    needs: str  # in words
    limit_bytes: int
    largest: int  # clips of this length that fit

    def __str__(self) -> str:
        batch = f"{self.model}, {self.per_device} x {self.accumulation} clips of {self.seconds:.2f} s, {self.way}"
        answer = "fits" if self.fits else "does not fit"
        return f"{self.card}: {batch}: {answer}, because it takes {self.needs}; at most {self.largest} would fit"


def verdicts(
    hardware: HardwareProfile,
    model: ModelProfile,
    per_device: int,
    accumulation: int,
    seconds: float,
    *,
    ask: AskMemory = memory_model,
) -> list[Verdict]:
    """Plain, checkpointed, and checkpointed with the front end clip by clip where the model has one that is frozen."""
    base = StepSettings(
        device=hardware.device,
        precision=precision_choice(hardware).value,
        optimizer=optimizer_choice(hardware).value,
        accumulates=accumulation > 1,
    )
    ways = ways_to_try(base, checkpointing=None, by_clip=None, by_clip_possible=may_run_by_clip(model))
    cheapest_first = [way for way in ways if way.gradient_checkpointing or not way.front_end_by_clip]
    limit = hardware.memory_limit_bytes
    seconds = float(model.padded_seconds(seconds))
    found = []
    for settings in cheapest_first:
        memory = ask(MemoryRequest(model.spec, settings))
        found.append(
            Verdict(
                card=hardware.gpu_name or hardware.cpu_name,
                model=model.name,
                way=way_name(settings),
                per_device=per_device,
                accumulation=accumulation,
                seconds=seconds,
                fits=memory.fits(per_device, seconds, limit),
                peak_bytes=memory.peak(per_device, seconds).bytes,
                needs=needs(memory, per_device, seconds, limit),
                limit_bytes=limit,
                largest=memory.largest_batch(seconds, limit),
            )
        )
    return found


def published_verdicts(*, safety_margin: float = 0.85, ask: AskMemory = memory_model) -> list[Verdict]:
    """The answers to the published rows."""
    return [
        verdict
        for card, name, per_device, accumulation in PUBLISHED_ROWS
        for verdict in verdicts(
            HardwareProfile.of_card(card, safety_margin),
            ModelProfile.from_folder(name),
            per_device,
            accumulation,
            PUBLISHED_LONGEST_SECONDS,
            ask=ask,
        )
    ]
