"""Whisper's encoder for fewer than 30 s: the one of transformers refuses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import WhisperForConditionalGeneration


class AnyLengthEncoder(WhisperEncoder):  # type: ignore[misc]
    """The encoder, with the first positions alone for features that are shorter than its window."""

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """States (B, T / 2, d_model) of features (B, n_mels, T), T even and at most 3000; no mask is looked at."""
        if input_features.shape[-1] >= 2 * self.max_source_positions:  # as it is, or refused by it
            return super().forward(input_features, attention_mask, **kwargs)
        states = F.gelu(self.conv1(input_features))
        states = F.gelu(self.conv2(states)).transpose(1, 2)  # (B, T / 2, d_model)
        states = states + self.embed_positions.weight[: states.shape[1]]
        states = F.dropout(states, p=self.dropout, training=self.training)
        for layer in self.layers:
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                states = layer(states, None, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(states))


def hear_any_length(model: WhisperForConditionalGeneration) -> None:
    """From now on the encoder takes features of up to 30 s.

    The encoder stays the object that it was, with its weights, names and hooks: what is saved is an ordinary Whisper.
    """
    model.get_encoder().__class__ = AnyLengthEncoder


def continued_with_silence(features: Tensor, lengths: Tensor, num_frames: int) -> Tensor:
    """Rows that go on with silence after their end, as if their clips had been padded with it.

    Whisper's front end floors each clip 80 dB below its loudest point, so silence is the least of each bin.

    Args:
        features: (B, T, n_mels), anything beyond the ends of rows; those shorter than `num_frames` end in silence.
        lengths: (B,) frames of each row.
        num_frames: of the result.

    Returns:
        (B, num_frames, n_mels).
    """
    beyond = torch.arange(features.shape[1], device=features.device) >= lengths[:, None]  # (B, T)
    silence = features.masked_fill(beyond[:, :, None], torch.inf).amin(dim=1, keepdim=True)  # (B, 1, n_mels)
    longer = F.pad(features, (0, 0, 0, num_frames - features.shape[1]))
    beyond = torch.arange(num_frames, device=features.device) >= lengths[:, None]
    return torch.where(beyond[:, :, None], silence, longer)
