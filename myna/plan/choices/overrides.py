"""Values that the user gave: which keys there are, and which values contradict the card or one another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from myna.plan.optimal_config import KEYS, type_mistakes, unknown_keys
from myna.plan.request import Attention, Optimizer
from myna.plan.training_plan import GB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.training_plan import Choice

STEP_KEYS = ("optimizer", "attention", "torch_compile", "front_end_by_clip")
_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "effective_batch_size",
    "eval_steps",
    "save_steps",
    "logging_steps",
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What was given, without what contradicts the rest, and the contradictions."""

    given: Mapping[str, Any]
    conflicts: tuple[str, ...]

    def __contains__(self, key: str) -> bool:
        return key in self.given

    def get(self, key: str, default: Any = None) -> Any:
        """The value that was given, or `default`."""
        return self.given.get(key, default)


def read_overrides(values: Mapping[str, Any], hardware: HardwareProfile) -> Overrides:
    """Check what can be checked without a memory model; values in conflict are set aside, so that planning goes on."""
    given = dict(values)
    conflicts = unknown_keys(given, (*KEYS, *STEP_KEYS)) + type_mistakes(given)
    conflicts += [
        f"{key}: expected at least 1; received {given[key]}"
        for key in _AT_LEAST_ONE
        if key in given and _is_number(given[key]) and given[key] < 1
    ]
    conflicts += _choices(given) + _precision_conflicts(given, hardware) + _memory_conflicts(given, hardware)
    spoiled = {name.strip() for conflict in conflicts for name in conflict.partition(":")[0].split(",")}
    given = {key: value for key, value in given.items() if key not in spoiled}
    if product := _batch_conflict(given, max(1, hardware.gpu_count)):
        conflicts.append(product)
        given.pop("effective_batch_size")
    return Overrides(given, tuple(conflicts))


def limited(hardware: HardwareProfile, overrides: Overrides) -> HardwareProfile:
    """The hardware with the share of its memory that was given; of two, the stricter one counts."""
    shares = [hardware.safety_margin]
    if (percent := overrides.get("max_memory_usage_percent")) is not None:
        shares.append(percent / 100)
    if (reserve := overrides.get("memory_reserve_gb")) is not None:
        shares.append(1 - reserve * GB / capacity_bytes(hardware))
    given = shares[1:] or shares
    return replace(hardware, safety_margin=min(given))


def capacity_bytes(hardware: HardwareProfile) -> int:
    """Memory of the device that trains: the card's, or what is free of the machine's."""
    return hardware.gpu_memory_bytes if hardware.device == "cuda" else hardware.ram_available_bytes


def as_given(value: Any, planned: Choice) -> str:
    """The reason of a value that was given."""
    if value == planned.value:
        return f"set by you: {planned.reason}"
    return f"set by you; planned {planned.value}: {planned.reason}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _choices(given: Mapping[str, Any]) -> list[str]:
    conflicts = []
    for key, kind in (("optimizer", Optimizer), ("attention", Attention)):
        if key in given and given[key] not in get_args(kind):
            conflicts.append(f"{key}: expected one of {', '.join(get_args(kind))}; received {given[key]!r}")
    for key in ("torch_compile", "front_end_by_clip"):
        if not isinstance(given.get(key, False), bool):
            conflicts.append(f"{key}: expected true or false; received {given[key]!r}")
    return conflicts


def _precision_conflicts(given: Mapping[str, Any], hardware: HardwareProfile) -> list[str]:
    if given.get("bf16") is True and given.get("fp16") is True:
        return ["fp16, bf16: expected at most one of them; received both"]
    return [
        f"{key}: expected one of {', '.join(hardware.dtypes)}, which {hardware.gpu_name or 'the processor'} has; "
        f"received {key}"
        for key in ("bf16", "fp16")
        if given.get(key) is True and key not in hardware.dtypes
    ]


def _memory_conflicts(given: Mapping[str, Any], hardware: HardwareProfile) -> list[str]:
    conflicts = []
    percent, reserve = given.get("max_memory_usage_percent"), given.get("memory_reserve_gb")
    whole = capacity_bytes(hardware) / GB
    if percent is not None and _is_number(percent) and not 0 < percent <= 100:
        conflicts.append(f"max_memory_usage_percent: expected more than 0 and at most 100; received {percent}")
    if reserve is not None and _is_number(reserve) and not 0 <= reserve < whole:
        conflicts.append(f"memory_reserve_gb: expected less than the device's {whole:.2f} GB; received {reserve}")
    return conflicts


def _batch_conflict(given: Mapping[str, Any], devices: int) -> str:
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "effective_batch_size")
    per_device, accumulation, effective = (given.get(key) for key in keys)
    if effective is None:
        return ""
    product = (per_device or 1) * (accumulation or 1) * devices
    if (effective == product) if per_device and accumulation else (effective % product == 0):
        return ""
    wanted = "" if per_device and accumulation else "a multiple of "
    factors = " x ".join(str(factor) for factor in (per_device, accumulation, devices) if factor)
    return f"effective_batch_size: expected {wanted}{factors} = {product}; received {effective}"
