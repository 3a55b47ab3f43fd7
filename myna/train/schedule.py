"""Learning-rate schedules that `transformers` does not have."""

from __future__ import annotations

import math

ONE_CYCLE_START = 1 / 25  # of the peak rate; defaults of torch.optim.lr_scheduler.OneCycleLR
ONE_CYCLE_END = 1 / 25 / 1e4


def one_cycle(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Share of the peak learning rate at `step`: up by a cosine over the warmup, down by a cosine over the rest.

    Source: Smith and Topin, "Super-Convergence", 2018 (two phases, constants of PyTorch's OneCycleLR).
    """
    if step < warmup_steps:
        return _cosine(ONE_CYCLE_START, 1.0, step / warmup_steps)
    return _cosine(1.0, ONE_CYCLE_END, min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
