"""Choices that follow from the number of steps, the lengths and size of the dataset, and the machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from myna.models.audio_context import WINDOW_SECONDS
from myna.plan.choices.cuts import LOST_SHARE, cut, lost_share
from myna.plan.render import gib
from myna.plan.training_plan import Choice

if TYPE_CHECKING:
    from myna.plan.choices.batch import BatchPlan
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile

WARMUP_SHARE = 0.1
MOST_WARMUP_STEPS = 2000
MOST_STEPS_BETWEEN_EVALUATIONS = 1000
MOST_WORKERS = 8
CHUNK_SECONDS = 30.0
WORTH_A_CUT = 1.5  # as many clips at the cut as at the longest


def step_choices(
    dataset: DatasetProfile, effective_batch_size: int, num_epochs: float, max_steps: int = -1
) -> dict[str, Choice]:
    """Warmup, evaluation, checkpoints and logging, from the number of optimizer steps."""
    per_epoch = max(1, math.ceil(dataset.utterances / effective_batch_size))
    total = max_steps if max_steps > 0 else max(1, math.ceil(per_epoch * num_epochs))
    warmup = min(math.ceil(WARMUP_SHARE * total), MOST_WARMUP_STEPS)
    # The last evaluation of an epoch falls on its end, and checkpoints fall on evaluations.
    rounds = math.ceil(per_epoch / MOST_STEPS_BETWEEN_EVALUATIONS)
    evaluate = math.ceil(per_epoch / rounds)
    logging = max(1, min(50, evaluate // 10))
    of_total = f"of {total} optimizer steps ({per_epoch} an epoch)"
    return {
        "warmup_steps": Choice(warmup, f"{100 * warmup / total:.0f} % {of_total}"),
        "eval_steps": Choice(evaluate, f"{rounds} evaluation{'s' if rounds > 1 else ''} an epoch, {of_total}"),
        "save_steps": Choice(evaluate, "with every evaluation, so that the best one has its checkpoint"),
        "logging_steps": Choice(logging, f"{max(1, evaluate // logging)} lines between evaluations"),
    }


def data_choices(hardware: HardwareProfile, dataset: DatasetProfile) -> dict[str, Choice]:
    """Loader processes, streaming and caching, from cores, memory and disk."""
    cores, devices = hardware.cpu_cores, max(1, hardware.gpu_count)
    workers = max(1, min(MOST_WORKERS, int((cores - 1) / devices)))
    decoded_bytes = int(dataset.total_hours * 3600 * dataset.sample_rate * 4)  # 32-bit samples
    streams = decoded_bytes > 0.8 * hardware.disk_free_bytes
    caches = not streams and decoded_bytes < 0.5 * hardware.ram_available_bytes
    decoded = f"{dataset.total_hours:.1f} h are {gib(decoded_bytes)} decoded"
    return {
        "dataloader_num_workers": Choice(
            workers,
            f"{cores:g} cores{f' for {devices} devices' if devices > 1 else ''}, one of them left to the trainer",
        ),
        "use_streaming": Choice(
            streams,
            f"{decoded}; the disk has {gib(hardware.disk_free_bytes)} free"
            + (", too little for a prepared copy" if streams else ""),
        ),
        "cache_dataset": Choice(
            caches,
            f"{decoded}; "
            + f"half of the {gib(hardware.ram_available_bytes)} of free memory "
            + ("holds them" if caches else "does not hold them"),
        ),
    }


def duration_choices(batch: BatchPlan, dataset: DatasetProfile) -> dict[str, Choice]:
    """The longest clip that is kept, and the pieces that longer recordings are recognised in."""
    kept_seconds = batch.case.dataset.max_seconds
    window = WINDOW_SECONDS if batch.case.is_padded else math.inf
    longest = math.ceil(100 * min(kept_seconds, window)) / 100
    reason = "the longest clip there is: all are kept"
    if kept_seconds < dataset.max_seconds or kept_seconds > window:
        reason = f"of up to {dataset.max_seconds:.2f} s; longer ones are left out"
    chunk = WINDOW_SECONDS if batch.case.is_padded else min(CHUNK_SECONDS, float(math.ceil(longest)))
    return {
        "max_audio_duration_seconds": Choice(longest, reason + _proposed_cut(batch)),
        "audio_chunk_length_seconds": Choice(
            chunk, "the window that the model hears" if batch.case.is_padded else "no longer than it was trained on"
        ),
    }


def _proposed_cut(batch: BatchPlan) -> str:
    """A shorter limit that loses next to nothing and makes room for many more clips, as a proposal only."""
    case, way = batch.case, batch.way
    if case.is_padded or batch.accumulation == 1:
        return ""
    for seconds in sorted(set(case.dataset.durations_seconds.tolist())):
        lost = lost_share(case.dataset, cut(case.dataset, seconds))
        if lost >= LOST_SHARE or seconds >= case.longest_seconds:
            continue
        clips = way.model.largest_batch(seconds, case.limit_bytes)  # at the shortest cut that loses so little
        if clips < WORTH_A_CUT * way.largest:
            return ""
        gain = f"{clips} clips fit instead of {way.largest}"
        return f". Cut at {seconds:.1f} s, {100 * lost:.2f} % of the hours would be lost and {gain}"
    return ""
