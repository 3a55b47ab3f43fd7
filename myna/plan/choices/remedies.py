"""What else could be done when a training step does not fit, with the memory each would need."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from myna.errors import ModelError
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.render import gib
from myna.plan.request import LoraSpec, Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from myna.plan.choices.ways import AskMemory
    from myna.plan.memory.model import MemoryModel
    from myna.plan.request import MemoryRequest

LORA_RANK = 32
_ADAPTED_FAMILIES = {"wav2vec2", "hubert", "wavlm", "whisper", "parakeet"}  # whose attention has q_proj and v_proj


def remedies(ask: AskMemory, request: MemoryRequest, *, family: str, seconds: float, limit_bytes: int) -> Iterator[str]:
    """Cheaper kinds of training, each with the memory that one clip of `seconds` then needs.

    Where the quick formula says that it fits, its figure is given; else the step is traced.
    """
    for name, way in _other_kinds(request, family).items():
        bound = _bound(way)
        if bound is not None and bound.peak(1, seconds).bytes <= limit_bytes:
            yield f"{name} needs at most {gib(bound.peak(1, seconds).bytes)}"
            continue
        model = ask(way)
        needed = f"{'' if model.exact else 'at most '}{gib(model.peak(1, seconds).bytes)}"
        verdict = "" if model.fits(1, seconds, limit_bytes) else ", which does not fit"
        yield f"{name} needs {needed}{verdict}"


def _bound(request: MemoryRequest) -> MemoryModel | None:
    try:
        return closed_formula(request)
    except ModelError:
        return None  # a family that it does not know


def _other_kinds(request: MemoryRequest, family: str) -> dict[str, MemoryRequest]:
    if request.model.lora is not None or request.model.quantized:
        return {}
    with_optimizer: dict[str, Optimizer] = {
        "8-bit AdamW (optimizer=adamw_8bit)": "adamw_8bit",
        "Adafactor (optimizer=adafactor)": "adafactor",
    }
    kinds = {
        name: replace(request, settings=replace(request.settings, optimizer=optimizer))
        for name, optimizer in with_optimizer.items()
        if optimizer != request.settings.optimizer
    }
    if family in _ADAPTED_FAMILIES:
        adapters = replace(request.model, lora=LoraSpec(LORA_RANK))
        kinds[f"LoRA of rank {LORA_RANK}"] = replace(request, model=adapters)
        kinds[f"QLoRA of rank {LORA_RANK}"] = replace(request, model=replace(adapters, quantized=True))
    return kinds
