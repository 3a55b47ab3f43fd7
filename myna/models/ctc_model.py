"""What all our models share: subsampling, masks and the stack of layers; and for CTC the head and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from myna.errors import ModelError
from myna.models.attention import attention_mask, rotary_table
from myna.models.ctc_decode import BLANK_ID
from myna.models.subsampling import ConvSubsampling, frame_mask, subsampled_length


class CTCConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes of a CTC model.

    Args:
        vocab_size: output tokens, the blank (id 0) included.
        n_mels: mel bins of the features.
        d_model: width of the encoder; a multiple of 2 * num_heads.
        num_encoder_layers: layers in the stack.
        num_heads: attention heads.
        d_ff: width inside a feed-forward module.
        dropout: share of activations dropped in training.
        chunk_frames: encoder frames of an attention chunk; 0 is full context.
        left_chunks: earlier chunks that a frame may look back on; -1 is all.
    """

    def __init__(
        self,
        vocab_size: int = 32,
        n_mels: int = 80,
        d_model: int = 256,
        num_encoder_layers: int = 12,
        num_heads: int = 4,
        d_ff: int = 1024,
        dropout: float = 0.1,
        chunk_frames: int = 0,
        left_chunks: int = -1,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_mels = n_mels
        self.d_model = d_model
        self.num_encoder_layers = num_encoder_layers
        self.num_heads = num_heads
        self.d_ff = d_ff
        self.dropout = dropout
        self.chunk_frames = chunk_frames
        self.left_chunks = left_chunks
        super().__init__(**{"pad_token_id": BLANK_ID, **kwargs})


@dataclass
class CTCOutput(ModelOutput):  # type: ignore[misc]
    """Output of a CTC model."""

    logits: Tensor | None = None  # (B, T', vocab_size)
    lengths: Tensor | None = None  # (B,) real frames of T'
    losses: Tensor | None = None  # (B,) float32, negative log-likelihood of each row's labels


class EncoderModel(PreTrainedModel):  # type: ignore[misc]
    """An encoder without a head. Subclasses name their configuration and their layer, and call `post_init`.

    A layer is called as `layer(x, mask, rotary, real)`: (B, T', d_model), `attention_mask`, `rotary_table`, and
    (B, T', 1) True at real frames.
    """

    config_class: type[CTCConfig] = CTCConfig
    main_input_name = "features"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is per row: the trainer must not think it is normalised by item counts
    _supports_sdpa = True

    def __init__(self, config: CTCConfig) -> None:
        super().__init__(config)
        if config.d_model % (2 * config.num_heads):
            raise ModelError(
                f"expected d_model in multiples of 2 * num_heads = {2 * config.num_heads}; received {config.d_model}",
                "Rotary positions turn pairs of channels in each head.",
            )
        self.subsampling = ConvSubsampling(config.n_mels, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Variance is kept through each layer; biases start at 0, norms as the identity."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_uniform_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)

    def encode(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """What the layers make of subsampled frames.

        Args:
            latents: (B, T', d_model), of `subsampling`.
            lengths: (B,) real frames of T'.

        Returns:
            (B, T', d_model).
        """
        num_frames, config = latents.shape[1], self.config
        mask = attention_mask(lengths, num_frames, config.chunk_frames, config.left_chunks)
        rotary = rotary_table(num_frames, config.d_model // config.num_heads, latents.device)
        real = frame_mask(lengths, num_frames)[:, :, None]  # (B, T', 1)
        x = self.dropout(latents)
        for layer in self.layers:
            x = layer(x, mask, rotary, real)
        encoded: Tensor = self.norm(x)
        return encoded


class CTCModel(EncoderModel):
    """An encoder with a CTC head."""

    def __init__(self, config: CTCConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    def set_vocab_size(self, vocab_size: int) -> None:
        """Replace the head by a fresh one of so many tokens."""
        self.config.vocab_size = vocab_size
        self.head = nn.Linear(self.config.d_model, vocab_size).to(self.head.weight.device)
        self._init_weights(self.head)

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        labels: Tensor | None = None,
        label_lengths: Tensor | None = None,
    ) -> CTCOutput:
        """Encode and, with labels, score.

        Args:
            features: (B, T, n_mels), anything beyond each length.
            feature_lengths: (B,) frames.
            labels: (B, U) token ids, -100 beyond each length.
            label_lengths: (B,); without it, the labels that are not negative are counted.

        Returns:
            Logits (B, T', vocab_size), lengths (B,) and, with labels, losses (B,). A row whose labels do not fit into
            its frames has an infinite loss: such rows are to be refused before training.
        """
        lengths = subsampled_length(feature_lengths)
        logits = self.head(self.encode(self.subsampling(features), lengths))  # (B, T', vocab_size)
        losses = None if labels is None else ctc_losses(logits, lengths, labels, label_lengths)
        return CTCOutput(logits=logits, lengths=lengths, losses=losses)


def ctc_losses(logits: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of each row's labels, summed over its tokens (Graves et al. 2006).

    Args:
        logits: (B, T, V), of any float type; the loss is computed in float32.
        lengths: (B,) real frames.
        labels: (B, U), negative beyond each length.
        label_lengths: (B,); without it, the labels that are not negative are counted.

    Returns:
        (B,) float32; infinite where frames < labels + adjacent repeats.
    """
    if label_lengths is None:
        label_lengths = (labels >= 0).sum(dim=1)
    targets = F.pad(labels.clamp(min=0), (0, 1))  # never without a column, also when nobody speaks
    log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)  # (T, B, V)
    return F.ctc_loss(log_probs, targets, lengths, label_lengths, blank=BLANK_ID, reduction="none")
