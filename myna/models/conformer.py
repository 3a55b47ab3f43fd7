"""Conformer-CTC (Gulati et al. 2020): feed-forward halves around self-attention and convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCTC
from transformers.modeling_layers import GradientCheckpointingLayer

from myna.models.attention import Rotary, SelfAttention
from myna.models.ctc_model import CTCConfig, CTCModel
from myna.models.feed_forward import FeedForward


class ConformerConfig(CTCConfig):
    """Sizes of a Conformer-CTC.

    Args:
        conv_kernel_size: frames that the depthwise convolution spans; odd.
    """

    model_type = "myna-conformer"

    def __init__(self, conv_kernel_size: int = 31, **kwargs: Any) -> None:
        self.conv_kernel_size = conv_kernel_size
        super().__init__(**kwargs)


class ConvModule(nn.Module):
    """LayerNorm, gate, depthwise convolution over time, LayerNorm, SiLU, projection.

    The paper normalises over the batch; over channels, a gradient does not depend on how a batch is split.
    With chunked attention the convolution looks back only, so that no frame depends on a later chunk.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, kernel = config.d_model, config.conv_kernel_size
        self.padding = (kernel - 1, 0) if config.chunk_frames else (kernel // 2, kernel // 2)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.depthwise_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); frames where `real` (B, T, 1) is False are zeroed before they mix."""
        x = F.glu(self.gate(self.norm(x))) * real
        x = F.pad(x, (0, 0, *self.padding))
        # As a two-dimensional convolution with channels last it is four times as fast on a CPU.
        weight = self.depthwise.weight.unsqueeze(3).contiguous(memory_format=torch.channels_last)
        image = x.unsqueeze(2).permute(0, 3, 1, 2)  # (B, d_model, T + padding, 1)
        x = F.conv2d(image, weight, self.depthwise.bias, groups=len(weight))  # (B, d_model, T, 1)
        x = x.permute(0, 2, 3, 1).squeeze(2)  # (B, T, d_model)
        out: Tensor = self.project(F.silu(self.depthwise_norm(x)))
        return out


class ConformerLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Half feed-forward, self-attention, convolution, half feed-forward, norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.first_half = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, config.num_heads)
        self.conv = ConvModule(config)
        self.second_half = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, rotary: Rotary, real: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        x = torch.add(x, self.first_half(x), alpha=0.5)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, rotary))
        x = x + self.dropout(self.conv(x, real))
        x = torch.add(x, self.second_half(x), alpha=0.5)
        out: Tensor = self.norm(x)
        return out


class ConformerForCTC(CTCModel):
    """Conformer encoder with a CTC head."""

    config_class = ConformerConfig
    layer_class = ConformerLayer
    _no_split_modules = ["ConformerLayer"]  # noqa: RUF012


AutoConfig.register(ConformerConfig.model_type, ConformerConfig)
AutoModelForCTC.register(ConformerConfig, ConformerForCTC)
