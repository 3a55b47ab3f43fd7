"""The micro-batch of a run: the way of taking the step, clips and accumulation, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.errors import PlanError
from myna.plan.choices.cuts import LOST_SHARE, cut, lost_share
from myna.plan.choices.remedies import remedies
from myna.plan.choices.ways import Way, longest_that_fits, search, split, way_name, ways_to_try
from myna.plan.render import gib, needs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.plan.choices.overrides import Overrides
    from myna.plan.choices.ways import AskMemory
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile
    from myna.plan.request import MemoryRequest, StepSettings

CLIP_BY_CLIP_FAMILIES = {"wav2vec2", "hubert", "wavlm"}
_MIDDLING = (0.9, 0.5, 0.1, 0.7, 0.3)  # quantiles of the lengths that follow the longest batch, in no order


@dataclass(frozen=True, slots=True)
class Case:
    """What a batch is planned for."""

    hardware: HardwareProfile
    dataset: DatasetProfile  # of the clips that are kept
    model: ModelProfile
    request: MemoryRequest
    overrides: Overrides
    ask: AskMemory

    @property
    def devices(self) -> int:
        """That share an optimizer step."""
        return max(1, self.hardware.gpu_count)

    @property
    def limit_bytes(self) -> int:
        """What each of them may hold."""
        return self.hardware.memory_limit_bytes

    @property
    def is_padded(self) -> bool:
        """Whether the front end pads clips with silence that the model hears, so that there is no padding mask."""
        return self.model.family == "whisper"

    @property
    def durations_seconds(self) -> NDArray[np.float64]:
        """(n,) as the model pads them; each stands for the same number of clips."""
        return self.model.padded_seconds(self.dataset.durations_seconds)

    @property
    def mean_seconds(self) -> float:
        """Of a clip as the model pads it."""
        return float(self.durations_seconds.mean()) if self.is_padded else self.dataset.mean_seconds

    @property
    def longest_seconds(self) -> float:
        """Of a clip as the model pads it."""
        return float(self.model.padded_seconds(self.dataset.max_seconds))

    def shorter_seconds(self) -> list[float]:
        """Lengths that follow the longest one during a run: memory is then cut into pieces that do not fit again."""
        lengths = np.quantile(self.durations_seconds, _MIDDLING, method="nearest")
        return [float(length) for length in lengths if length < self.longest_seconds]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What was found for a case."""

    case: Case  # with the clips that are kept
    way: Way
    tried: tuple[Way, ...]
    per_device: int
    accumulation: int
    conflicts: tuple[str, ...]
    lost_share: float  # of the hours, in clips too long to fit

    @property
    def effective(self) -> int:
        """Clips of an optimizer step."""
        return self.per_device * self.accumulation * self.case.devices


def plan_batch(case: Case, settings: StepSettings, target_batch_size: int) -> BatchPlan:
    """Fit as many of the longest clips as an optimizer step needs, by the cheapest way.

    Raises:
        PlanError: nothing fits, however the step is taken.
    """
    share = -(-target_batch_size // case.devices)
    given_clips = case.overrides.get("per_device_train_batch_size")
    given_parts = case.overrides.get("gradient_accumulation_steps")
    if given_clips and given_parts:
        share = given_clips * given_parts
    wanted = given_clips or (-(-share // given_parts) if given_parts else None)
    ways = ways_to_try(
        settings,
        checkpointing=case.overrides.get("gradient_checkpointing"),
        by_clip=case.overrides.get("front_end_by_clip"),
        by_clip_possible=may_run_by_clip(case.model),
    )
    if case.model.state_bytes > case.limit_bytes and "optimizer" not in case.overrides:
        held = f"parameters, gradients and the optimizer's states alone take {gib(case.model.state_bytes)}"
        raise _nothing_fits(case, ways[-1], held)
    way, tried = search(
        case.ask,
        case.request,
        ways,
        seconds=case.longest_seconds,
        shorter_seconds=case.shorter_seconds(),
        limit_bytes=case.limit_bytes,
        share=max(share, wanted or 1),
        needed=wanted,
    )
    if way.largest == 0:
        return _without_the_longest(case, settings, target_batch_size, tried)
    conflicts = _conflicts(case, way, wanted, share)
    if wanted and not conflicts:
        per_device, accumulation = wanted, given_parts or -(-share // wanted)
    else:
        per_device, accumulation = split(share, way.largest)
    return BatchPlan(case, way, tuple(tried), per_device, accumulation, tuple(conflicts), lost_share=0.0)


def may_run_by_clip(model: ModelProfile) -> bool:
    """Whether the convolutional front end can run clip by clip: of this family, and frozen."""
    front_end = f"{model.family}.feature_extractor"
    frozen = model.spec.lora is not None or any(front_end.startswith(name) for name in model.spec.frozen)
    return model.family in CLIP_BY_CLIP_FAMILIES and frozen


def _conflicts(case: Case, way: Way, wanted: int | None, share: int) -> list[str]:
    if wanted is None or wanted <= way.largest:
        return []
    given_clips = case.overrides.get("per_device_train_batch_size")
    needed = needs(way.model, wanted, case.longest_seconds, case.limit_bytes)
    where = f"at {case.longest_seconds:.2f} s, {way.name}; {wanted} would take {needed}"
    if given_clips:
        return [f"per_device_train_batch_size: expected at most {way.largest} {where}; received {given_clips}"]
    parts = -(-share // way.largest)
    received = case.overrides.get("gradient_accumulation_steps")
    return [
        f"gradient_accumulation_steps: expected at least {parts}, or {wanted} clips must fit at once and {way.largest} "
        f"do {where}; received {received}"
    ]


def _without_the_longest(case: Case, settings: StepSettings, target_batch_size: int, tried: list[Way]) -> BatchPlan:
    """Leave out clips that do not fit alone, where next to nothing is lost by it."""
    leanest = tried[-1]
    seconds = case.longest_seconds
    held = f"one clip of {seconds:.2f} s, {leanest.name}, takes {needs(leanest.model, 1, seconds, case.limit_bytes)}"
    fitting_seconds = longest_that_fits(leanest.model, seconds, case.limit_bytes)
    if fitting_seconds < case.dataset.min_seconds or case.is_padded:
        raise _nothing_fits(case, leanest.settings, held)
    kept = cut(case.dataset, fitting_seconds)
    lost = lost_share(case.dataset, kept)
    if lost > LOST_SHARE or "max_audio_duration_seconds" in case.overrides:
        offer = f"max_audio_duration_seconds={fitting_seconds:.1f} fits and loses {100 * lost:.1f} % of the hours"
        raise _nothing_fits(case, leanest.settings, held, offer)
    return replace(plan_batch(replace(case, dataset=kept), settings, target_batch_size), lost_share=lost)


def _nothing_fits(case: Case, leanest: StepSettings, held: str, *offers: str) -> PlanError:
    problem = (
        f"memory: expected at most {gib(case.limit_bytes)} ({100 * case.hardware.safety_margin:.0f} % of "
        f"{case.hardware.gpu_name or 'the memory that is free'}, less the process itself); of {case.model.name} {held}"
    )
    advice = [*offers]
    if case.overrides.get("gradient_checkpointing") is False:
        advice.append("gradient_checkpointing=true needs less")
    advice += remedies(
        case.ask,
        replace(case.request, settings=leanest),
        family=case.model.family,
        seconds=case.longest_seconds,
        limit_bytes=case.limit_bytes,
    )
    return PlanError([*case.overrides.conflicts, problem], f"For one clip: {'; '.join(advice)}." if advice else "")


def batch_reason(plan: BatchPlan) -> str:
    """Why so many clips."""
    case, way = plan.case, plan.way
    fit = f"{way.largest} fit" if way.largest > 1 else "1 fits"
    at = f"{fit} at the longest {case.longest_seconds:.2f} s into {gib(case.limit_bytes)}"
    return f"{at} ({100 * case.hardware.safety_margin:.0f} % less the process itself), {way_name(way.settings)}"


def effective_reason(plan: BatchPlan, target_batch_size: int) -> str:
    """Why the product is the target, or is not."""
    devices = plan.case.devices
    factors = f"{plan.per_device} x {plan.accumulation}" + (f" x {devices} devices" if devices > 1 else "")
    if plan.effective == target_batch_size:
        return f"{factors}, as asked for"
    if "per_device_train_batch_size" in plan.case.overrides or "gradient_accumulation_steps" in plan.case.overrides:
        return f"{factors}, from what you set"
    if target_batch_size % devices:
        return f"{factors}; {target_batch_size} does not divide among {devices} devices"
    return f"{factors}; no divisor of {target_batch_size // devices} comes near the {plan.way.largest} clips that fit"


def checkpointing_reason(plan: BatchPlan, cost: str) -> str:
    """Why activations are kept or computed anew."""
    tried: dict[str, Any] = {way.name: way.largest for way in plan.tried}
    found = ", ".join(f"{name} {clips}" for name, clips in tried.items())
    if plan.way.settings.gradient_checkpointing:
        return f"clips that fit: {found}; it costs {cost}, less than smaller micro-batches would"
    return f"clips that fit: {found}; enough without it, and it would cost {cost}"
