"""Parakeet of transformers (a FastConformer, Rekesh et al. 2023) as a CTC recogniser, from NVIDIA's weights or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, ParakeetCTCConfig, ParakeetForCTC

from myna.errors import ModelError
from myna.models.ctc import FrameRecognizer
from myna.models.ctc_decode import BLANK_ID
from myna.models.parakeet_processor import ParakeetProcessor, read_tokenizer
from myna.models.subsampling import frame_mask
from myna.models.weights import load_weights, model_errors, quiet

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BitsAndBytesConfig

    from myna.config import Config
    from myna.models.tokenizer import TextTokenizer
    from myna.samples import Batch

CONVOLUTION_CHANNELS = 256  # of the subsampling, in all published models; narrower ones have as many as `d_model`


class ParakeetRecognizer(FrameRecognizer):
    """A model with its processor; the blank is token 0.

    Args:
        processor: front end and tokenizer.
        model: transformers' CTC model, its head in the tokenizer's order.
        metadata: saved in `myna.json`.

    Raises:
        ModelError: the tokenizer or the features do not fit the model.
    """

    processor: ParakeetProcessor

    def __init__(
        self, processor: ParakeetProcessor, model: ParakeetForCTC, metadata: dict[str, str] | None = None
    ) -> None:
        for name, ours, theirs in (
            ("vocab_size", processor.tokenizer.vocab_size, model.config.vocab_size),
            ("n_mels", processor.log_mel.n_mels, model.config.encoder_config.num_mel_bins),
        ):
            if ours != theirs:
                raise ModelError(f"expected {name}={theirs}, as the model has it; received {ours} in the processor")
        self.processor = processor
        self.model = model
        self.metadata = dict(metadata or {})
        model.accepts_loss_kwargs = False  # the loss is per row: no item counts of the trainer in it

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        processor: ParakeetProcessor | None = None,
        metadata: dict[str, str] | None = None,
        quantization: BitsAndBytesConfig | None = None,
    ) -> ParakeetRecognizer:
        """Load a checkpoint, Myna's or NVIDIA's.

        Batch normalisation goes on with the statistics it has learned, in training too: so a gradient does not depend
        on how a step is split.

        Args:
            folder: of the checkpoint.
            processor: with the tokenizer to learn; None takes the checkpoint's own. The head keeps the rows of pieces
                that both have.
            metadata: saved in `myna.json`.
            quantization: of the linear layers.

        Raises:
            ModelError: the folder is no such checkpoint.
        """
        processor = processor or ParakeetProcessor.from_pretrained(folder)
        with model_errors(folder, "Parakeet"), quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            config.encoder_config.layerdrop = 0.0  # NVIDIA trained without
        model = load_weights(ParakeetForCTC, folder, config=config, quantization=quantization)
        _fit_head(model, folder, processor.tokenizer)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.__class__ = LearnedBatchNorm
        return cls(processor, model, metadata)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T', V) of each encoder frame."""
        logits: Tensor = model(**_inputs(batch)).logits
        return logits


class LearnedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics are learned: it never looks at the batch."""

    def train(self, mode: bool = True) -> LearnedBatchNorm:
        """Stays as in evaluation."""
        return super().train(False)


def parakeet_config(config: Config, vocab_size: int) -> ParakeetCTCConfig:
    """The configuration of a Parakeet to train from scratch.

    Args:
        config: of the run.
        vocab_size: tokens, the blank included.
    """
    sizes = config.model
    encoder = {
        "hidden_size": sizes.d_model,
        "num_hidden_layers": sizes.num_encoder_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.d_ff,
        "conv_kernel_size": sizes.conv_kernel_size,
        "subsampling_factor": sizes.subsampling_factor,
        "subsampling_conv_channels": min(CONVOLUTION_CHANNELS, sizes.d_model),
        "num_mel_bins": config.features.n_mels,
        "layerdrop": 0.0,
        **dict.fromkeys(("dropout", "activation_dropout", "attention_dropout"), sizes.dropout),
    }
    return ParakeetCTCConfig(vocab_size=vocab_size, pad_token_id=BLANK_ID, encoder_config=encoder)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    mask = frame_mask(batch.feature_lengths, batch.features.shape[1])
    return {"input_features": batch.features, "attention_mask": mask.long()}


def _fit_head(model: ParakeetForCTC, folder: str | Path, tokenizer: TextTokenizer) -> None:
    """Give the head one row for each piece: the checkpoint's own where its vocabulary has the piece, else a new one."""
    old, found = model.ctc_head, read_tokenizer(Path(folder))
    rows = dict(zip(found[0].pieces, found[1], strict=True)) if found else {}
    if max(rows.values(), default=0) >= old.out_channels:
        raise ModelError(
            f"{folder}: expected a head with a row for each of {max(rows.values()) + 1} tokens; received "
            f"{old.out_channels}",
            "Pass a folder whose tokenizer and model.safetensors belong together.",
        )
    wanted = [rows.get(piece, -1) for piece in tokenizer.pieces]
    if wanted != list(range(old.out_channels)):
        new = type(old)(old.in_channels, len(wanted), kernel_size=1).to(old.weight.device)
        model._init_weights(new)
        with torch.no_grad():
            for row, old_row in enumerate(wanted):
                if old_row >= 0:
                    new.weight[row] = old.weight[old_row]
                    new.bias[row] = old.bias[old_row]
        model.ctc_head = new
    model.config.vocab_size = len(wanted)
    model.config.pad_token_id = BLANK_ID
