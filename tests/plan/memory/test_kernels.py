from __future__ import annotations

import pytest
import torch
from torch import Tensor

from myna.plan.memory import kernels
from myna.plan.memory.fake_cuda import fake_mode

aten = torch.ops.aten


def shapes(tensors: tuple[Tensor, ...]) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


@pytest.mark.parametrize("in_one_row", [False, True])
def test_ctc_loss_is_answered_with_the_shapes_of_the_real_kernel(in_one_row: bool) -> None:
    log_probs = torch.randn(9, 2, 5).log_softmax(-1)
    targets = torch.ones(2, 3, dtype=torch.long)
    if in_one_row:
        targets = targets.flatten()
    real = aten._ctc_loss.default(log_probs, targets, [9, 9], [3, 3])
    assert shapes(kernels.ANSWERS[aten._ctc_loss.default](log_probs, targets, [9, 9], [3, 3])) == shapes(real)
    grad = aten._ctc_loss_backward.default(torch.ones(2), log_probs, targets, [9, 9], [3, 3], *real, 0)
    answer = kernels.ANSWERS[aten._ctc_loss_backward.default](torch.ones(2), log_probs)
    assert answer.shape == grad.shape


def test_layer_norm_of_half_precision_with_wide_weights_is_answered_as_the_cpu_does_it() -> None:
    x = torch.randn(2, 3, 4).bfloat16()
    weight, bias = torch.ones(4), torch.zeros(4)
    real = aten.native_layer_norm.default(x, [4], weight, bias, 1e-5)
    assert shapes(kernels.ANSWERS[aten.native_layer_norm.default](x, [4], weight, bias, 1e-5)) == shapes(real)
    same = kernels.ANSWERS[aten.native_layer_norm.default](x, [4], weight.bfloat16(), bias.bfloat16(), 1e-5)
    assert same is NotImplemented


def test_boolean_masks_are_answered_as_if_they_took_everything() -> None:
    with fake_mode():
        x, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
        assert kernels.ANSWERS[aten.index.Tensor](x, [mask]).shape == (6, 4)
        assert kernels.ANSWERS[aten.masked_select.default](x, mask).shape == (24,)
        assert kernels.ANSWERS[aten.nonzero.default](mask).shape == (6, 2)
        inner = torch.ones(3, dtype=torch.bool)
        assert kernels.ANSWERS[aten.index.Tensor](x, [None, inner]).shape == (2, 3, 4)
        assert kernels.ANSWERS[aten.index.Tensor](x, [torch.zeros(5, dtype=torch.long)]) is NotImplemented


def test_scratch_of_strided_inputs_is_their_dense_copy() -> None:
    x = torch.zeros(2, 8, 10)
    norm = kernels.SCRATCH[aten.native_layer_norm]
    assert norm((x, [10]), x) == 0
    assert norm((x.transpose(1, 2), [8]), x) == 2 * 8 * 10 * 4


def test_scratch_of_a_convolution_on_the_cpu_is_its_operands() -> None:
    x, weight = torch.zeros(2, 8, 100), torch.zeros(4, 8, 3)
    out = torch.zeros(2, 4, 98)
    assert kernels.SCRATCH[aten.convolution]((x, weight), out) == (2 * 8 * 100 + 4 * 8 * 3) * 4


def test_scratch_of_attention_backward_is_in_tiles() -> None:
    query = torch.zeros(2, 4, 130, 40)
    backward = kernels.SCRATCH[aten._scaled_dot_product_efficient_attention_backward]
    assert backward((query, query), None) == 2 * 4 * 256 * 64 * 4
