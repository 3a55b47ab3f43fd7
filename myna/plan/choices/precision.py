"""Precision, attention kernel and optimizer, from what the card can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.plan.training_plan import Choice

if TYPE_CHECKING:
    from myna.plan.profiles.hardware import HardwareProfile

VOLTA = (7, 0)  # the first compute capability with matrix units for half precision


def precision_choice(hardware: HardwareProfile) -> Choice:
    """bf16 where the card has it, fp16 on older cards with matrix units, else fp32."""
    if hardware.device == "cpu":
        return Choice("fp32", "no accelerator: half precision would not be faster")
    if "bf16" in hardware.dtypes:
        return Choice("bf16", f"{hardware.gpu_name or 'the card'} has bf16 natively: half the bytes, no loss scaling")
    if "fp16" in hardware.dtypes and (hardware.compute_capability or VOLTA) >= VOLTA:
        return Choice("fp16", f"{hardware.gpu_name or 'the card'} has no bf16; fp16 runs with a loss scale")
    return Choice("fp32", f"half precision gains no time on {hardware.gpu_name}, which has no matrix units for it")


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
    """AdamW; one fused kernel on a card, since the variant in many kernels needs a copy of the gradients more."""
    if hardware.device == "cpu":
        return Choice("adamw_torch", "one tensor after another, the least memory on a processor")
    return Choice("adamw_torch_fused", "one kernel for all tensors: no temporaries, and the quickest")
