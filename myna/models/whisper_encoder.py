"""Whisper on clips instead of 30 s: after a clip comes silence, which is the same for all clips.

Whisper has learned from clips that are followed by silence up to 30 s. Its encoder and decoder look for that silence:
without it the decoder does not find the end. But the states of silence hardly depend on the clip before it. So they are
made once for a batch, from few positions, and what attends to them takes each for many.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import WhisperForConditionalGeneration

# Of features: the front end floors a clip 80 dB below its loudest point. Of 112 clips of Common Voice, 80 % lie between
# -0.93 and -0.58; one level for all serves them as well as the mean of each batch.
SILENCE = -0.7
MADE_EVERY = 3  # positions of silence; made from every tenth, WER is 1.6 points worse
STANDS_FOR = 12  # positions; those that are attended to


class ClipEncoder(WhisperEncoder):  # type: ignore[misc]
    """The encoder; of features shorter than its window it gives the states of these and few states of silence."""

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """States (B, positions, d_model), as many as `all_positions` says, of features (B, n_mels, T); T is even.

        No mask is looked at. The last frame of each row is taken for its silence.
        """
        heard = STANDS_FOR * math.ceil(input_features.shape[-1] / (2 * STANDS_FOR))
        if heard >= self.max_source_positions:
            rest = 2 * self.max_source_positions - input_features.shape[-1]  # refused where it is negative
            whole = F.pad(input_features, (0, rest), mode="replicate") if rest > 0 else input_features
            return super().forward(whole, attention_mask, **kwargs)
        features = F.pad(input_features, (0, 2 * heard - input_features.shape[-1]), mode="replicate")
        states = self._entered(features) + self.embed_positions.weight[:heard]  # (B, heard, d_model)
        states = F.dropout(states, p=self.dropout, training=self.training)
        silence = self._silence()
        weights = weights_of(all_positions(heard, self.max_source_positions), self.max_source_positions, states)
        rows, first = len(states), heard // STANDS_FOR
        for layer, silent in zip(self.layers, silence[:-1], strict=True):
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                norm = layer.self_attn_layer_norm
                attended = torch.cat([norm(states), norm(silent[:, first:]).expand(rows, -1, -1)], dim=1)
                states = layer(states, weights, key_value_states=attended, **kwargs)
        states = torch.cat([states, silence[-1][:, first:].expand(rows, -1, -1)], dim=1)
        return BaseModelOutput(last_hidden_state=self.layer_norm(states))

    def _entered(self, features: Tensor) -> Tensor:
        states = F.gelu(self.conv1(features))
        return F.gelu(self.conv2(states)).transpose(1, 2)  # (B, T / 2, d_model)

    @torch.no_grad()
    def _silence(self) -> list[Tensor]:
        """States (1, positions / STANDS_FOR, d_model) of nothing but silence, before each layer and after the last."""
        weight = self.conv1.weight
        device = weight.device.type
        # Weights that autocast casts here would have no gradient where it finds them again.
        with torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
        ):
            features = torch.full((1, self.num_mel_bins, 16), SILENCE, dtype=weight.dtype, device=weight.device)
            anywhere = self._entered(features)[:, 4:5]  # far from both ends, where the convolutions see no silence
            states = anywhere + self.embed_positions.weight[MADE_EVERY // 2 :: MADE_EVERY]
            step = STANDS_FOR // MADE_EVERY
            found = [states]
            for layer in self.layers:
                found.append(layer(found[-1], None))
            kept = self.max_source_positions // STANDS_FOR
            return [states[:, step // 2 :: step][:, :kept] for states in found]


class ClipCrossAttention(WhisperAttention):  # type: ignore[misc]
    """A decoder's attention to what `ClipEncoder` gives."""

    source_positions: int  # of the encoder's window

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ever; the mask is made here."""
        weights = weights_of(key_value_states.shape[1], self.source_positions, hidden_states)
        return super().forward(hidden_states, key_value_states=key_value_states, attention_mask=weights, **kwargs)


def hear_clips(model: WhisperForConditionalGeneration) -> None:
    """From now on the encoder takes features of up to 30 s.

    Encoder and decoder stay the objects that they were, with their weights, names and hooks: what is saved is an
    ordinary Whisper.
    """
    encoder = model.get_encoder()
    encoder.__class__ = ClipEncoder
    for layer in model.get_decoder().layers:
        layer.encoder_attn.__class__ = ClipCrossAttention
        layer.encoder_attn.source_positions = encoder.max_source_positions


def all_positions(heard: int, source_positions: int) -> int:
    """Positions that `ClipEncoder` gives: those of the clip, a multiple of STANDS_FOR, and those of silence."""
    return heard + source_positions // STANDS_FOR - heard // STANDS_FOR


def weights_of(positions: int, source_positions: int, like: Tensor) -> Tensor | None:
    """What is added to the scores of attended positions (1, 1, 1, positions): silence counts STANDS_FOR times.

    Args:
        positions: of `ClipEncoder`; the number tells how many of them are silence.
        source_positions: of the encoder's window; as many need no weights.
        like: for the device and the type.
    """
    if positions == source_positions:
        return None
    heard = (positions - source_positions // STANDS_FOR) * STANDS_FOR // (STANDS_FOR - 1)
    is_silence = torch.arange(positions, device=like.device) >= heard
    return (is_silence * math.log(STANDS_FOR)).to(like.dtype)[None, None, None]


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
