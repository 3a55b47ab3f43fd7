"""The memory shapes of bitsandbytes: 4-bit linear layers and 8-bit AdamW, without its kernels or a GPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from myna.models.adapters import unquantized

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

WEIGHTS_PER_SCALE = 64  # of the 4-bit format; scales are quantized to a byte themselves (double quantization)
ELEMENTS_PER_SCALE = 256  # of the 8-bit moments; scales are fp32
MIN_8BIT_ELEMENTS = 4096  # smaller parameters keep fp32 moments


def quantize(model: PreTrainedModel) -> None:
    """Hold the weights of the linear layers in 4 bits, but for those that training leaves whole."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and not name.endswith(unquantized(model.config.model_type)):
            model.set_submodule(name, NF4Linear(module))


class _Dequantized(torch.autograd.Function):
    """x @ W.T with the weight rebuilt in each direction and never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return x @ layer.rebuilt(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.rebuilt(grads[0].dtype), None


class NF4Linear(nn.Linear):
    """Memory shape of `bitsandbytes.nn.Linear4bit`: packed weights, block scales, output in the input's dtype."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # without a full weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8, device=linear.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        num_scales = math.ceil(linear.weight.numel() / WEIGHTS_PER_SCALE)
        self.scales = nn.Buffer(torch.zeros(num_scales, dtype=torch.uint8, device=linear.weight.device))
        self.bias = linear.bias

    def rebuilt(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in), undefined values."""
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), computed in autocast's dtype where it is on."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        out: Tensor = _Dequantized.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            out = out + self.bias.to(dtype)
        return out.to(x.dtype)


class Adam8bit(torch.optim.Optimizer):
    """Memory shape of `bitsandbytes.optim.AdamW(optim_bits=8)`; it changes no weight.

    Args:
        groups: as for any optimizer.
        wide: ids of parameters whose moments stay in fp32; the Trainer wants that for embeddings.
    """

    def __init__(self, groups: list[dict[str, Any]], wide: set[int]) -> None:
        super().__init__(groups, {})
        self._wide = wide

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take the memory of a step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._moments(parameter)

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        if id(parameter) in self._wide or parameter.numel() < MIN_8BIT_ELEMENTS:
            return {name: torch.zeros_like(parameter) for name in ("state1", "state2")}
        num_scales = math.ceil(parameter.numel() / ELEMENTS_PER_SCALE)
        moments = {}
        for number in (1, 2):
            moments[f"state{number}"] = torch.zeros_like(parameter, dtype=torch.uint8)
            moments[f"absmax{number}"] = torch.zeros(num_scales, device=parameter.device)
        return moments
