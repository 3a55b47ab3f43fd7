"""From a model to its `ModelSpec`: what another process needs to rebuild it on the meta device, without weights."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from myna.errors import ModelError
from myna.models.adapters import is_adapted, without_adapters
from myna.plan.request import LoraSpec, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PretrainedConfig


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and data parallelism's wrappers; peft's stays."""
    inner: Any = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif type(inner).__name__ in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
            inner = inner.module
        else:
            return inner  # type: ignore[no-any-return]


def spec_of(model: nn.Module, name: str = "") -> ModelSpec:
    """The spec of a model, perhaps wrapped by peft; what is frozen in it stays frozen.

    Raises:
        ModelError: it has no configuration of transformers, or adapters of another kind than LoRA.
    """
    base = without_adapters(model)
    if not hasattr(getattr(base, "config", None), "to_dict"):
        raise ModelError(
            f"expected a model of transformers, with a configuration; received a {type(base).__name__}",
            "Make its class a PreTrainedModel, or plan by a known name such as whisper-small.",
        )
    lora = _lora(model, base) if is_adapted(model) else None
    return ModelSpec(
        model_class=class_path(type(base)),
        config_class=class_path(type(base.config)),
        config=_plain(base.config),
        name=name or getattr(base.config, "_name_or_path", "") or type(base).__name__,
        frozen=tuple(_graphless_parts(base) if lora else frozen_parts(base)),
        lora=lora,
        quantized=bool(getattr(base, "is_loaded_in_4bit", False)),
    )


def rebuild_problem(model: nn.Module) -> str:
    """Why no other process can import the model's class; "" when one can."""
    kind = type(without_adapters(model))
    if kind.__module__ == "__main__":
        where = "the program that was started, or in a notebook"
    elif kind.__module__.startswith("transformers_modules."):
        where = "code that came with its weights"
    elif "<locals>" in kind.__qualname__:
        where = "a function"
    elif sys.modules.get(kind.__module__) is None:
        where = f"the module {kind.__module__}, which is not loaded"
    else:
        return ""
    return f"its class {kind.__qualname__} is defined in {where}, where another process cannot import it from"


def class_path(kind: type) -> str:
    """`module:qualified.name`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def frozen_parts(model: nn.Module, prefix: str = "") -> Iterator[str]:
    """The fewest modules and parameters that cover what is not trained; the model as a whole is never one of them."""
    for name, parameter in model.named_parameters(recurse=False):
        if not parameter.requires_grad:
            yield prefix + name
    for name, child in model.named_children():
        states = {parameter.requires_grad for parameter in child.parameters()}
        if states == {False}:
            yield prefix + name
        elif states == {True, False}:
            yield from frozen_parts(child, f"{prefix}{name}.")


def _graphless_parts(model: nn.Module) -> Iterator[str]:
    """Frozen front ends that do not ask for gradients of their input, as they would unless told to be frozen."""
    return (name for name, module in model.named_modules() if name and getattr(module, "_requires_grad", True) is False)


def matches_target(name: str, target: str) -> bool:
    """Whether LoRA's `target` names this module, as peft understands it."""
    return name == target or name.endswith(f".{target}")


def _lora(model: Any, base: nn.Module) -> LoraSpec:
    config = model.peft_config[model.active_adapters[0]]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise ModelError(
            f"expected LoRA adapters; received {config.peft_type}", "Plan the model without its adapters, or with LoRA."
        )
    adapted = sorted(name for name, module in base.named_modules() if hasattr(module, "lora_A"))
    short = tuple(sorted({name.rpartition(".")[2] for name in adapted}))
    meant = sorted(name for name, _ in base.named_modules() if any(matches_target(name, target) for target in short))
    saved = tuple(name for name, module in base.named_modules() if hasattr(module, "modules_to_save"))
    return LoraSpec(config.r, short if meant == adapted else tuple(adapted), config.lora_dropout, saved)


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back, so that a request is equal after a journey."""
    values = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
