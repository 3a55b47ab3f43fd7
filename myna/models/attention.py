"""Self-attention with rotary positions, over the whole clip or in chunks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from myna.models.subsampling import frame_mask

ROTARY_BASE = 10_000.0  # RoFormer, Su et al. 2021

Rotary = tuple[Tensor, Tensor]


def rotary_table(num_frames: int, head_dim: int, device: torch.device) -> Rotary:
    """Cosines and signed sines, each (T, head_dim), that turn a query or key by its position (RoFormer)."""
    channels = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    frequencies = ROTARY_BASE ** (-channels / head_dim)  # (head_dim / 2,)
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn (..., T, head_dim) by position: channel i with channel i + head_dim / 2.

    Computed in float32, since half precision cannot tell late frames apart.
    """
    cos, sin = rotary
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)


def attention_mask(lengths: Tensor, num_frames: int, chunk_frames: int, left_chunks: int) -> Tensor:
    """What each frame may look at, True where it may.

    Args:
        lengths: (B,) real frames.
        num_frames: T.
        chunk_frames: 0 lets a frame see the whole clip; else its own chunk of so many frames and earlier ones.
        left_chunks: how many earlier chunks; -1 is all.

    Returns:
        (B, 1, 1, T) for the whole clip, (B, 1, T, T) for chunks.
    """
    # A clip of no frames still attends to one, or its softmax has nothing to sum over.
    real = frame_mask(lengths.clamp(min=1), num_frames)[:, None, None, :]  # (B, 1, 1, T)
    if chunk_frames == 0:
        return real
    chunk = torch.arange(num_frames, device=lengths.device) // chunk_frames
    steps_back = chunk[:, None] - chunk[None, :]  # (T, T), of queries over keys
    visible = steps_back >= 0
    if left_chunks >= 0:
        visible = visible & (steps_back <= left_chunks)
    itself = torch.eye(num_frames, dtype=torch.bool, device=lengths.device)  # padded frames need a key as well
    return (visible & real) | itself


class SelfAttention(nn.Module):
    """Multi-head self-attention on torch's fused kernels.

    The attention weights have no dropout: several fused kernels lack it, and the layers drop out their outputs.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor, rotary: Rotary) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); `mask` as `attention_mask` gives it."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, T, head_dim)
        query, key = rotate(qkv[:2], rotary)
        mixed = F.scaled_dot_product_attention(query, key, qkv[2], attn_mask=mask)  # (B, H, T, head_dim)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
