"""Which family of models for these hours of speech, this card and this need: ranked, with reasons and sources."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from myna.errors import PlanError
from myna.plan.choices.batch import may_run_by_clip
from myna.plan.choices.precision import optimizer_choice, precision_choice
from myna.plan.evidence import CANDIDATES, RULES, Candidate, LanguageResources, Latency
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.render import gib
from myna.plan.request import LoraSpec, MemoryRequest, StepSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from myna.plan.choices.ways import AskMemory
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile

    ProfileOf = Callable[[Candidate], ModelProfile]

TYPICAL_SECONDS = 15.0  # of the longest clips, where nothing is known of them


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, and who says so."""

    text: str
    source: str
    points: int


@dataclass(frozen=True, slots=True)
class Advice:
    """A family in its largest size that fits."""

    family: str
    model: str
    recipe: str
    points: int
    reasons: tuple[Reason, ...]  # the weightiest first
    fits: bool
    memory: str  # what one clip needs, in words

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.model} ({self.family}): {self.recipe}. {self.memory}"]
        lines += [f"  {'+' if reason.points > 0 else '-'} {reason.text} [{reason.source}]" for reason in self.reasons]
        return "\n".join(lines)


def advise(
    hours: float,
    hardware: HardwareProfile,
    *,
    latency: Latency = "offline",
    language: LanguageResources = "poor",
    longest_seconds: float = TYPICAL_SECONDS,
    ask: AskMemory = closed_formula,
    profile: ProfileOf | None = None,
) -> list[Advice]:
    """Rank the families, each in its largest size that fits the card; the best first, what does not fit last.

    Args:
        hours: of transcribed speech.
        hardware: the card.
        latency: whether results are wanted while somebody speaks.
        language: how much of the language the published models heard.
        longest_seconds: of a clip.
        ask: gives the memory model of a request; by default the formula that errs on the safe side, at once.
        profile: gives a candidate's profile; by default built on meta.

    Raises:
        PlanError: impossible hours, unknown words, or a card too small for every family.
    """
    _check(hours, latency, language)
    found: dict[str, Advice] = {}
    for candidate in CANDIDATES:
        if candidate.family in found and found[candidate.family].fits:
            continue
        fits, memory = _memory(candidate, (profile or profile_of)(candidate), hardware, longest_seconds, ask)
        found[candidate.family] = _advice(candidate, fits, memory, hours, latency, language)
    ranked = sorted(found.values(), key=lambda advice: (not advice.fits, -advice.points))
    if not ranked[0].fits:
        raise PlanError(
            [f"memory: expected enough for one of {len(CANDIDATES)} models; {_limit(hardware)} are too little"]
        )
    return ranked


def profile_of(candidate: Candidate) -> ModelProfile:
    """The profile of a candidate, without weights."""
    from myna.config import load_config
    from myna.plan.profiles.model import ModelProfile

    if candidate.own:
        return ModelProfile.from_config(load_config([candidate.family]))
    lora = LoraSpec(candidate.lora_rank) if candidate.lora_rank else None
    return ModelProfile.from_folder(candidate.name, lora=lora)


def _advice(
    candidate: Candidate, fits: bool, memory: str, hours: float, latency: Latency, language: LanguageResources
) -> Advice:
    rules = [rule for rule in RULES if rule.holds(candidate.family, hours, latency, language)]
    reasons = [Reason(rule.because, rule.source, rule.points) for rule in rules]
    return Advice(
        family=candidate.family,
        model=candidate.name,
        recipe=candidate.recipe,
        points=sum(rule.points for rule in rules),
        reasons=tuple(sorted(reasons, key=lambda reason: -abs(reason.points))),
        fits=fits,
        memory=memory,
    )


def _memory(
    candidate: Candidate, model: ModelProfile, hardware: HardwareProfile, longest_seconds: float, ask: AskMemory
) -> tuple[bool, str]:
    """Whether one clip fits when checkpointed, and what it takes in words."""
    settings = StepSettings(
        device=hardware.device,
        precision=precision_choice(hardware).value,
        optimizer=optimizer_choice(hardware).value,
        gradient_checkpointing=True,
        front_end_by_clip=may_run_by_clip(model),
        accumulates=True,
    )
    seconds = float(model.padded_seconds(longest_seconds))
    memory = ask(MemoryRequest(model.spec, settings))
    fits = memory.fits(1, seconds, hardware.memory_limit_bytes)
    needed = f"{'' if memory.exact else 'at most '}{gib(memory.peak(1, seconds).bytes)}"
    verdict = "" if fits else ", which may not fit"
    return fits, f"A checkpointed clip of {seconds:.0f} s takes {needed} of {_limit(hardware)}{verdict}."


def _limit(hardware: HardwareProfile) -> str:
    return gib(hardware.memory_limit_bytes)


def _check(hours: float, latency: str, language: str) -> None:
    conflicts = []
    if not (math.isfinite(hours) and hours > 0):
        conflicts.append(f"hours: expected more than 0; received {hours}")
    for name, value, kind in (("latency", latency, Latency), ("language", language, LanguageResources)):
        if value not in get_args(kind):
            conflicts.append(f"{name}: expected one of {', '.join(get_args(kind))}; received {value}")
    if conflicts:
        raise PlanError(conflicts)
