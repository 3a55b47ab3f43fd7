"""Transformer-CTC: pre-norm self-attention and feed-forward layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCTC
from transformers.modeling_layers import GradientCheckpointingLayer

from myna.models.attention import Rotary, SelfAttention
from myna.models.ctc_model import CTCConfig, CTCModel
from myna.models.feed_forward import FeedForward


class TransformerConfig(CTCConfig):
    """Sizes of a Transformer-CTC."""

    model_type = "myna-transformer"

    # Without one of its own, transformers would generate an __init__ that skips the one above.
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class TransformerLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Pre-norm layer (Xiong et al. 2020) with rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, rotary: Rotary, real: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, rotary))
        out: Tensor = x + self.feed_forward(x)
        return out


class TransformerForCTC(CTCModel):
    """Transformer encoder with a CTC head."""

    config_class = TransformerConfig
    layer_class = TransformerLayer
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012


AutoConfig.register(TransformerConfig.model_type, TransformerConfig)
AutoModelForCTC.register(TransformerConfig, TransformerForCTC)
