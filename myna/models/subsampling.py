"""Four frames into one: two strided convolutions that look back only."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SUBSAMPLING_FACTOR = 4
CHANNELS = 32  # of both convolutions, as in the small recipes of SpeechBrain; at 144 they take half of a step


@overload
def subsampled_length(num_frames: int) -> int: ...
@overload
def subsampled_length(num_frames: Tensor) -> Tensor: ...
def subsampled_length(num_frames: int | Tensor) -> int | Tensor:
    """Encoder frames for so many feature frames: a quarter, rounded up. Takes an int or an integer tensor."""
    return (num_frames + SUBSAMPLING_FACTOR - 1) // SUBSAMPLING_FACTOR


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2, then a projection to the encoder's width.

    In time both are causal: output frame i sees feature frames 4i - 6 to 4i. So padding after a clip never reaches
    its real frames, and a stream can run it with six frames of memory. In frequency they are padded evenly.

    Args:
        n_mels: mel bins of the features.
        d_model: width of the encoder.
    """

    def __init__(self, n_mels: int, d_model: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, CHANNELS, 3, stride=2)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2)
        self.project = nn.Linear(CHANNELS * subsampled_length(n_mels), d_model)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, n_mels) -> (B, T', d_model), T' = subsampled_length(T)."""
        x = features.unsqueeze(1)  # (B, 1, T, n_mels)
        for conv in (self.conv1, self.conv2):
            x = F.pad(x, (1, 1, 2, 0))
            # Channels last is three times as fast on a CPU.
            weight = conv.weight.contiguous(memory_format=torch.channels_last)
            x = F.relu(F.conv2d(x, weight, conv.bias, stride=2), inplace=True)  # time and mel halve, rounded up
        out: Tensor = self.project(x.permute(0, 2, 3, 1).flatten(2))  # (B, T', n_mels/4 * C) -> (B, T', d_model)
        return out


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(B,) lengths -> (B, num_frames) bool, True at real frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]
