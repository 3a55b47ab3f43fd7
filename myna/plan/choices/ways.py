"""How many of the longest clips fit, and which way of taking the step that needs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from myna.plan.memory.model import MemoryModel
    from myna.plan.request import MemoryRequest, StepSettings

    AskMemory = Callable[[MemoryRequest], MemoryModel]

# Below this many of the longest clips a micro-batch is worth less than what checkpointing costs. Assumed: four clips of
# 30 s are 6000 frames at 50 Hz, enough to fill a card's matrix units; one clip of a mean 8 s is 400, which is not.
SENSIBLE_CLIPS = 4
# Every layer's forward runs twice: 4 instead of 3 forwards is 33 % in theory; transformers tells its users about 20 %
# (documentation of TrainingArguments.activation_checkpointing).
CHECKPOINTING_COST = "about 25-35 % more time a step"
FP32_BYTES = 4
MOST_CLIPS = 1024  # that a micro-batch is tried with, unless more are asked for


@dataclass(frozen=True, slots=True)
class Way:
    """A way of taking the training step, and how many of the longest clips it holds."""

    settings: StepSettings
    model: MemoryModel
    largest: int  # 0: not even one

    @property
    def name(self) -> str:
        """In words."""
        return way_name(self.settings)


def way_name(settings: StepSettings) -> str:
    """A way of taking the step in words."""
    name = "checkpointed" if settings.gradient_checkpointing else "plain"
    return name + (" with the front end clip by clip" if settings.front_end_by_clip else "")


def ways_to_try(
    settings: StepSettings, *, checkpointing: bool | None, by_clip: bool | None, by_clip_possible: bool
) -> list[StepSettings]:
    """Plain, checkpointed, plain with the front end by clip, both. None leaves a choice open, a value fixes it."""
    checkpointed = (False, True) if checkpointing is None else (checkpointing,)
    clip_wise = ((False, True) if by_clip_possible else (False,)) if by_clip is None else (by_clip,)
    return [
        replace(settings, gradient_checkpointing=checkpoint, front_end_by_clip=clips)
        for clips in clip_wise
        for checkpoint in checkpointed
    ]


def search(
    ask: AskMemory,
    request: MemoryRequest,
    ways: Sequence[StepSettings],
    *,
    seconds: float,
    limit_bytes: int,
    share: int,
    shorter_seconds: Sequence[float] = (),
    needed: int | None = None,
) -> tuple[Way, list[Way]]:
    """Find the cheapest way whose micro-batch is large enough. Each way that is asked for costs seconds.

    Args:
        ask: gives the memory model of a request.
        request: what does not change between the ways.
        ways: settings to try, in order.
        seconds: of the longest clip.
        limit_bytes: what the device may hold.
        share: clips that one device takes of an optimizer step.
        shorter_seconds: lengths of batches that follow.
        needed: clips that a micro-batch must hold; by default enough to be worth its while.

    Returns:
        The way to take, and all that were tried. A way of 0 clips means that none fits.
    """
    enough = needed or min(share, SENSIBLE_CLIPS)
    tried: list[Way] = []
    for settings in ways:
        if not tried or _is_worth_a_look(settings, tried, enough, share):
            lengths = (seconds, *shorter_seconds)
            tried.append(_measure(ask, replace(request, settings=settings), lengths, limit_bytes, share))
    return _best(tried, share), tried


def split(share: int, largest: int) -> tuple[int, int]:
    """Clips of a micro-batch and micro-batches of a step, for a device's share of the effective batch.

    The product is `share` where a divisor of it comes close to what fits; else it is a little more than `share`.
    """
    largest = min(largest, share)
    exact = max(clips for clips in range(1, largest + 1) if share % clips == 0)
    if 2 * exact > largest:
        return exact, share // exact
    accumulation = -(-share // largest)
    return -(-share // accumulation), accumulation


def longest_that_fits(model: MemoryModel, longest_seconds: float, limit_bytes: int) -> float:
    """Seconds of the longest single clip that fits, to a tenth of a second; 0 when none of a second does."""
    if model.fits(1, longest_seconds, limit_bytes):
        return longest_seconds
    fits, fails = 0.0, longest_seconds
    while fails - fits > 0.1:
        middle = (fits + fails) / 2
        fits, fails = (middle, fails) if model.fits(1, middle, limit_bytes) else (fits, middle)
    return fits if fits >= 1 else 0.0


def largest_in_a_row(model: MemoryModel, lengths: Sequence[float], limit_bytes: int, at_most: int) -> int:
    """Clips that fit in a row of batches of these lengths, the longest first; 0 when not even one does."""
    largest = model.largest_batch(lengths[0], limit_bytes, at_most)
    if _holds(model, largest, lengths, limit_bytes):
        return largest
    return bisect_left(range(1, largest), True, key=lambda clips: not _holds(model, clips, lengths, limit_bytes))


def _best(tried: Sequence[Way], share: int) -> Way:
    """Which holds most of the share; of equals the one that was tried first."""
    return max(tried, key=lambda way: min(way.largest, share))


def _is_worth_a_look(settings: StepSettings, tried: Sequence[Way], enough: int, share: int) -> bool:
    best = _best(tried, share)
    if best.largest >= share:
        return False
    if settings.front_end_by_clip and not settings.gradient_checkpointing:
        # Where checkpointing holds more, the front end was not what stood in the way of the plain step.
        return best.largest < enough and not best.settings.gradient_checkpointing
    if best.largest >= enough:  # more clips for next to no time: a checkpointed step with the front end by clip
        return settings.front_end_by_clip and best.settings.gradient_checkpointing
    return True


def _measure(ask: AskMemory, request: MemoryRequest, lengths: Sequence[float], limit_bytes: int, share: int) -> Way:
    settings = replace(request.settings, accumulates=share > 1)
    model = ask(replace(request, settings=settings))
    largest = largest_in_a_row(model, lengths, limit_bytes, at_most=max(MOST_CLIPS, share))
    waiting = FP32_BYTES * model.trainable  # gradients that wait through the next forward, unless the step fits at once
    if largest < share and model.peak(share, lengths[0]).bytes - waiting <= limit_bytes:
        whole = replace(settings, accumulates=False)
        at_once = ask(replace(request, settings=whole))
        if _holds(at_once, share, lengths, limit_bytes):
            return Way(whole, at_once, share)
    return Way(settings, model, largest)


def _holds(model: MemoryModel, clips: int, lengths: Sequence[float], limit_bytes: int) -> bool:
    return clips > 0 and model.fits(clips, lengths[0], limit_bytes, [(clips, seconds) for seconds in lengths[1:]])
