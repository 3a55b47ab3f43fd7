"""The wav2vec 2.0 family of transformers as a recogniser: CTC fine-tuning and decoding from raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCTC

from myna.errors import ModelError
from myna.models.ctc import FrameRecognizer
from myna.models.ctc_decode import BLANK_ID
from myna.models.front_end import freeze_front_end, run_front_end_by_clip
from myna.models.masking import draw_time_mask
from myna.models.wav2vec2_processor import Wav2Vec2Processor, read_vocabulary
from myna.models.weights import load_weights, model_errors, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from myna.samples import Batch

# What the name of transformers' configuration says: all of these have the same front end and head.
MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat", "sew")
HEAD = ("lm_head.weight", "lm_head.bias")
MASK = "masked_spec_embed"  # what masked frames are replaced by; many checkpoints never trained theirs


class Wav2Vec2Recognizer(FrameRecognizer):
    """A model of the family with its processor; the blank is token 0.

    Args:
        processor: samples and tokenizer.
        model: transformers' CTC model, its head in the tokenizer's order.
        metadata: saved in `myna.json`.

    Raises:
        ModelError: the tokenizer does not fit the model.
    """

    processor: Wav2Vec2Processor

    def __init__(
        self, processor: Wav2Vec2Processor, model: PreTrainedModel, metadata: dict[str, str] | None = None
    ) -> None:
        if processor.tokenizer.vocab_size != model.config.vocab_size:
            raise ModelError(
                f"expected {model.config.vocab_size} tokens, as the model has them; received "
                f"{processor.tokenizer.vocab_size} in the tokenizer"
            )
        self.processor = processor
        self.model = model
        self.metadata = dict(metadata or {})
        model.accepts_loss_kwargs = False  # the loss is per row: no item counts of the trainer in it

    @classmethod
    def from_pretrained(cls, folder: str | Path, metadata: dict[str, str] | None = None) -> Wav2Vec2Recognizer:
        """Load a fine-tuned checkpoint, Myna's or any with a vocabulary of characters, as it is.

        Raises:
            ModelError: the folder is no such checkpoint, or not fine-tuned.
        """
        processor = Wav2Vec2Processor.from_pretrained(folder)
        model = load_weights(AutoModelForCTC, folder, may_miss=[MASK])
        vocabulary = read_vocabulary(folder)
        if max(vocabulary.values()) >= model.lm_head.out_features:
            raise ModelError(
                f"{folder}: expected a head with a row for each of {max(vocabulary.values()) + 1} tokens; received "
                f"{model.lm_head.out_features}",
                "Pass a folder whose vocabulary and model.safetensors belong together.",
            )
        _fit_head(model, vocabulary, processor.tokenizer.pieces)
        return cls(processor, model, metadata)

    @classmethod
    def to_train(
        cls,
        folder: str | Path,
        processor: Wav2Vec2Processor,
        metadata: dict[str, str] | None = None,
        *,
        freeze_front_end: bool = True,
        front_end_by_clip: bool = False,
        mask_time_prob: float = 0.05,
        quantization: BitsAndBytesConfig | None = None,
    ) -> Wav2Vec2Recognizer:
        """Start from a checkpoint, fine-tuned or not; the head keeps the rows of pieces that both vocabularies have.

        Args:
            folder: of the checkpoint.
            processor: with the tokenizer to learn.
            metadata: saved in `myna.json`.
            freeze_front_end: keep the convolutions as they are; no graph is built through them.
            front_end_by_clip: run them one clip at a time, for memory; they must be frozen.
            mask_time_prob: share of encoder frames that are masked in training, about.
            quantization: of the encoder's linear layers.

        Raises:
            ModelError: the folder is no such checkpoint, or a front end to train should run clip by clip.
        """
        with model_errors(folder, "wav2vec 2.0"), quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config.mask_time_prob = mask_time_prob
        config.apply_spec_augment = mask_time_prob > 0
        config.mask_feature_prob = 0.0  # drawn by numpy, out of the trainer's sight
        config.layerdrop = 0.0  # a step that is cut would leave out other layers in each piece
        model = load_weights(AutoModelForCTC, folder, may_miss=[MASK, *HEAD], config=config, quantization=quantization)
        _fit_head(model, read_vocabulary(folder), processor.tokenizer.pieces)
        _set_up_training(model, freeze_front_end, front_end_by_clip)
        return cls(processor, model, metadata)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T, V) of each encoder frame; in training some of the frames are masked."""
        masks = self._time_masks(batch) if self.model.training else {}
        logits: Tensor = model(**self.processor.inputs(batch), **masks).logits
        return logits

    def _time_masks(self, batch: Batch) -> dict[str, Tensor]:
        """Left to itself transformers would draw from numpy's global generator, which is not seeded at each step."""
        config = self.model.config
        if not config.mask_time_prob:
            return {}
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        num_frames = self.processor.num_frames(batch.features.shape[1])
        lengths = self.frames(batch).tolist()
        mask = draw_time_mask(lengths, num_frames, config.mask_time_prob, config.mask_time_length, rng)
        return {"mask_time_indices": torch.from_numpy(mask).to(batch.features.device)}  # (B, T)


def _set_up_training(model: PreTrainedModel, freeze: bool, by_clip: bool) -> None:
    if freeze:
        freeze_front_end(model)
    if by_clip:
        run_front_end_by_clip(model)
    if not model.config.mask_time_prob:  # a weight without a use
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not name.endswith(MASK))


def _fit_head(model: PreTrainedModel, vocabulary: dict[str, int], pieces: Sequence[str]) -> None:
    """Give the head one row for each piece: the checkpoint's own where its vocabulary has the piece, else a new one."""
    old = model.lm_head
    rows = [vocabulary.get(piece, old.out_features) for piece in pieces]
    if rows != list(range(old.out_features)):
        new = nn.Linear(old.in_features, len(pieces)).to(old.weight.device)
        model._init_weights(new)
        kept = [(row, old_row) for row, old_row in enumerate(rows) if old_row < old.out_features]
        with torch.no_grad():
            for row, old_row in kept:
                new.weight[row] = old.weight[old_row]
                new.bias[row] = old.bias[old_row]
        model.lm_head = new
    model.config.vocab_size = len(pieces)
    model.config.pad_token_id = BLANK_ID
