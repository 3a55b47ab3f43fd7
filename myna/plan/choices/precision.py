"""Precision, kernels, optimizer and memory of the device, from what it can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.plan.speed import bf16_gain
from myna.plan.training_plan import Choice

if TYPE_CHECKING:
    from myna.plan.profiles.hardware import HardwareProfile

VOLTA = (7, 0)  # the first compute capability with matrix units for half precision
# Of a feed-forward layer, which gains more than the rest of a step: below, conversions may cost what products gain.
LEAST_BF16_GAIN = 1.5
LEAST_BF16_WIDTH = 128  # narrower layers are soon done, and a measurement of them says little


def precision_choice(hardware: HardwareProfile, hidden_size: int = 0) -> Choice:
    """bf16 where the card has it, fp16 on older cards with matrix units, else fp32; a processor is measured.

    Args:
        hardware: the device that trains.
        hidden_size: width of the model; 0 measures nothing.
    """
    if hardware.device == "cpu":
        return _precision_of_processor(hardware, hidden_size)
    if "bf16" in hardware.dtypes:
        return Choice("bf16", f"{hardware.gpu_name or 'the card'} has bf16 natively: half the bytes, no loss scaling")
    if "fp16" in hardware.dtypes and (hardware.compute_capability or VOLTA) >= VOLTA:
        return Choice("fp16", f"{hardware.gpu_name or 'the card'} has no bf16; fp16 runs with a loss scale")
    return Choice("fp32", f"half precision gains no time on {hardware.gpu_name}, which has no matrix units for it")


def _precision_of_processor(hardware: HardwareProfile, hidden_size: int) -> Choice:
    if "bf16" not in hardware.dtypes:
        return Choice("fp32", "the processor has no bf16 of its own: half precision would not be faster")
    if 0 < hidden_size < LEAST_BF16_WIDTH:
        return Choice("fp32", f"layers of width {hidden_size} are too small to gain by the processor's bf16")
    if not (hardware.is_present and hidden_size):
        return Choice("fp32", "the processor has bf16, but whether that is faster was not measured")
    gain = bf16_gain(hidden_size)
    measured = f"a layer of width {hidden_size} is trained {gain:.1f} times as fast in bf16 on this processor"
    if gain < LEAST_BF16_GAIN:
        return Choice("fp32", f"measured: {measured}, and {LEAST_BF16_GAIN:g} times would be worth it")
    return Choice("bf16", f"measured: {measured}")


def attention_choice(hardware: HardwareProfile, *, padding_mask: bool) -> Choice:
    """The kernel that scaled dot product attention takes: a padding mask rules flash out, and so do older cards."""
    if hardware.device == "cpu":
        return Choice("efficient", "the processor's fused kernel, which takes a mask")
    if not hardware.flash_attention:
        return Choice("efficient", f"{hardware.gpu_name or 'the card'} is too old for the flash kernel")
    if padding_mask:
        return Choice("efficient", "clips of a batch differ in length, and the flash kernel takes no padding mask")
    return Choice("flash", "all inputs have one length, so there is no padding mask to rule it out")


def optimizer_choice(hardware: HardwareProfile) -> Choice:
    """AdamW in one fused kernel, on a card and on a processor."""
    if hardware.device == "cpu":
        return Choice(
            "adamw_torch_fused", "one pass over each tensor: 2 to 8 times as fast as the plain one, no temporaries"
        )
    return Choice("adamw_torch_fused", "one kernel for all tensors: no temporaries, and the quickest")


def device_choices(hardware: HardwareProfile) -> dict[str, Choice]:
    """Compilation, the card's memory, and the way batches take to it."""
    if hardware.device == "cpu":
        return {
            "torch_compile": Choice(
                False, "on a processor compiling takes minutes, again for new shapes, and gains little"
            ),
            "expandable_segments": Choice(False, "there is no card"),
            "pinned_transfer": Choice(False, "there is no card to copy batches to"),
        }
    return {
        "torch_compile": Choice(False, "batches differ in length, and each new shape may compile anew; true tries it"),
        "expandable_segments": Choice(
            True, "on Linux, unless PYTORCH_ALLOC_CONF says otherwise: batches of many lengths leave no gaps"
        ),
        "pinned_transfer": Choice(True, "batches are copied to the card while it computes"),
    }
