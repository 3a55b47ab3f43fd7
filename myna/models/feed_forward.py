"""The feed-forward module of both encoders."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """LayerNorm, two linear layers with SiLU between them, dropout."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model), to be added to the input."""
        hidden = self.dropout(F.silu(self.expand(self.norm(x))))  # (B, T, d_ff)
        out: Tensor = self.dropout(self.contract(hidden))
        return out
