"""What every recogniser can do: score labels, decode speech, save itself."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from myna.models.metadata import write_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from myna.feed.batches import Processor
    from myna.samples import Batch, Transcript


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How hypotheses are searched for. A family passes over what it has no use for."""

    beam_width: int = 1  # 1 is greedy
    timestamps: bool = False  # words with times
    language: str = ""  # whisper: ISO 639 code; "" takes the model's, the label's or the one it hears
    task: Literal["transcribe", "translate"] = "transcribe"  # whisper
    max_new_tokens: int = 225  # whisper


class Recognizer(ABC):
    """A processor (front end and tokenizer) and a model.

    `metadata` is saved next to the weights in `myna.json`: family, language, dataset_version, text_rules.
    """

    processor: Processor
    model: PreTrainedModel
    metadata: dict[str, str]

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of all tokens (B, T, V), at each frame (CTC) or before each label (seq2seq).

        `model` is ours, perhaps compiled.
        """

    @abstractmethod
    def losses_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """Losses (B,) float32 of what `logits` gave, summed over each row's labels."""

    @abstractmethod
    def scored(self, batch: Batch) -> Tensor:
        """Positions of the logits that belong to the speech, (B, T) bool: neither padding nor a prompt."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """`losses_of` a forward pass."""
        return self.losses_of(self.logits(model, batch), batch)

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """What a mean loss is taken over, (B,) float32: 1 a clip (CTC), or its target tokens (seq2seq)."""

    @abstractmethod
    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        """Free-running transcripts, one for each row; of the labels no more than their language is looked at."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors) or adapters, configuration, processor and metadata into `folder`."""
        from myna.models.adapters import save_model

        save_model(self.model, folder)
        self.processor.save_pretrained(folder)
        write_metadata(folder, self.metadata)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device


@contextlib.contextmanager
def decoding(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off and no graph; the model's mode is put back."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
