"""What a ledger must know of single kernels: answers that fake tensors cannot give, and memory that no tensor shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten

# Answers: for operations whose result depends on data, or that have no kernel for fake tensors. NotImplemented hands
# the call back to the fake tensors.


def _a_number(tensor: Tensor) -> bool | int | float:
    return False if tensor.dtype == torch.bool else 1


def _no(*_: Any, **__: Any) -> bool:
    return False


def _ctc_loss(log_probs: Tensor, targets: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Losses (B,) and log_alpha (B, T, 2U + 1), U the longest target; rows in one line are taken as equally long."""
    frames, clips, _classes = log_probs.shape
    longest = targets.shape[-1] // (clips if targets.dim() == 1 else 1)
    return log_probs.new_empty(clips), log_probs.new_empty(clips, frames, 2 * longest + 1)


def _ctc_loss_backward(_grad: Tensor, log_probs: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(log_probs)


def _masked_select(tensor: Tensor, _mask: Tensor) -> Tensor:
    """As if the mask took everything."""
    return tensor.new_empty(tensor.numel())


def _nonzero(tensor: Tensor) -> Tensor:
    """As if nothing were zero."""
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.long)


def _index(tensor: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """By a boolean mask: as if it took everything."""
    mask = next((index for index in indices if index is not None and index.dtype == torch.bool), None)
    if mask is None:
        return NotImplemented
    before = next(position for position, index in enumerate(indices) if index is mask)
    shape = tensor.shape
    return tensor.new_empty((*shape[:before], mask.numel(), *shape[before + mask.dim() :]))


def _layer_norm(tensor: Tensor, shape: Sequence[int], weight: Tensor | None, _bias: Tensor | None, _eps: float) -> Any:
    """Of half-precision input with fp32 weights, as autocast leaves it on the CPU: statistics in fp32."""
    if weight is None or tensor.dtype == weight.dtype or tensor.device.type != "cpu":
        return NotImplemented
    rows = (*tensor.shape[: -len(shape)], *(1 for _ in shape))
    out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return out, tensor.new_empty(rows, dtype=weight.dtype), tensor.new_empty(rows, dtype=weight.dtype)


ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _a_number,
    aten._use_cudnn_ctc_loss.default: _no,
    aten._use_cudnn_ctc_loss.Tensor: _no,
    aten._use_miopen_ctc_loss.default: _no,
    aten._use_miopen_ctc_loss.Tensor: _no,
    aten._ctc_loss.default: _ctc_loss,
    aten._ctc_loss.Tensor: _ctc_loss,
    aten._ctc_loss_backward.default: _ctc_loss_backward,
    aten._ctc_loss_backward.Tensor: _ctc_loss_backward,
    aten.masked_select.default: _masked_select,
    aten.nonzero.default: _nonzero,
    aten.index.Tensor: _index,
    aten.native_layer_norm.default: _layer_norm,
}

# Floating-point operations of matrix products, convolutions and attention; torch counts the CPU's attention not at all.
FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}

# Scratch: bytes that a kernel takes for itself and gives back before it returns.


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dense_copies(args: Sequence[Any], _out: Any) -> int:
    """Kernels that want dense inputs copy strided ones."""
    return sum(_bytes(arg) for arg in args if isinstance(arg, Tensor) and arg.dim() > 1 and not _is_dense(arg))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _convolution(args: Sequence[Any], out: Any) -> int:
    """oneDNN copies the operands into its blocked layout (measured); cuDNN halves into NHWC (assumed)."""
    copies = _dense_copies(args, out)
    tensor, weight, *_ = args
    if tensor.device.type == "cpu":
        if _is_channels_last(tensor):
            return copies + _bytes(weight)
        # The blocked output outlives the other two, while it is copied back.
        return copies + max(_blocked(tensor) + _bytes(weight), _bytes(out))
    if tensor.dtype == torch.float32:
        return copies
    return copies + _bytes(tensor) + _bytes(weight) + _bytes(out)


def _convolution_backward(args: Sequence[Any], out: Any) -> int:
    copies = _dense_copies(args, out)
    grad, tensor, weight = args[:3]
    if tensor.device.type == "cpu":
        copied_twice = max(args[4]) > 1 and args[9] == 1  # with a stride and without groups
        return copies + _onednn_convolution_backward(grad, tensor, weight, copied_twice=copied_twice, wanted=args[10])
    return copies + (0 if tensor.dtype == torch.float32 else _bytes(grad) + _bytes(tensor) + _bytes(weight))


def _onednn_convolution_backward(
    grad: Tensor, tensor: Tensor, weight: Tensor, *, copied_twice: bool, wanted: Sequence[bool]
) -> int:
    """Measured, kernel by kernel, on a processor with AVX-512."""
    of_input, of_weight, _ = wanted
    half = tensor.dtype != torch.float32
    sums = 0.5 * (_bytes(grad) + _blocked(tensor)) + 2 * _bytes(weight) if half and of_weight else 0.0  # in fp32
    if _is_channels_last(tensor) or _is_channels_last(weight):
        copies = sum(_bytes(operand) for operand in (grad, tensor) if not _is_channels_last(operand))
        return copies + 2 * _bytes(weight) + int(max(0.15 * _bytes(tensor), sums))
    needed = [0.0]
    if of_input:
        needed += [_blocked(tensor) * (2 if copied_twice else 1), 1.65 * _bytes(grad) + _bytes(weight)]
    if of_weight:
        needed.append(_bytes(grad) + _blocked(tensor) + sums)
    return int(max(needed))


def _is_channels_last(tensor: Tensor) -> bool:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _blocked(tensor: Tensor) -> int:
    """Bytes of a copy in oneDNN's blocked layout; a single channel is taken as it is."""
    return 0 if tensor.shape[1] == 1 else _bytes(tensor)


def _fp32_query_gradients(args: Sequence[Any], _out: Any) -> int:
    """Fused attention sums the gradients of the queries in fp32, in tiles of 128 positions and 32 channels."""
    clips, heads, positions, channels = args[1].shape
    return int(clips * heads * math.ceil(positions / 128) * 128 * math.ceil(channels / 32) * 32 * 4)


def _log_beta(args: Sequence[Any], _out: Any) -> int:
    log_alpha: Tensor = args[6]
    return _bytes(log_alpha)


SCRATCH: dict[Any, Callable[[Sequence[Any], Any], int]] = {
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten.native_layer_norm: _dense_copies,
    aten.native_layer_norm_backward: _dense_copies,
    aten.native_group_norm: _dense_copies,
    aten.native_group_norm_backward: _dense_copies,
    aten._softmax: _dense_copies,
    aten._softmax_backward_data: _dense_copies,
    aten._log_softmax: _dense_copies,
    aten._log_softmax_backward_data: _dense_copies,
    aten._scaled_dot_product_flash_attention_backward: _fp32_query_gradients,
    aten._scaled_dot_product_efficient_attention_backward: _fp32_query_gradients,
    aten._ctc_loss_backward: _log_beta,
}
