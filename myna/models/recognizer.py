"""What every recogniser can do: score labels, decode speech, save itself."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from myna.errors import ModelError
from myna.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from myna.feed.batches import Processor
    from myna.samples import Batch, Transcript

METADATA_FILE = "myna.json"
MAX_METADATA_BYTES = 100_000


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
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Losses (B,) float32, summed over each row's labels; `model` is ours, perhaps wrapped for DDP."""

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """What a mean loss is taken over, (B,) float32: 1 a clip (CTC), or its target tokens (seq2seq)."""

    @abstractmethod
    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        """Free-running transcripts, one for each row; of the labels no more than their language is looked at."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration, processor and metadata into `folder`."""
        self.model.save_pretrained(folder)
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


def write_metadata(folder: str | Path, metadata: dict[str, str]) -> None:
    """Write `myna.json` into a model folder."""
    text = json.dumps(metadata, indent=2, ensure_ascii=False, sort_keys=True)
    write_atomically(Path(folder) / METADATA_FILE, text + "\n")


def read_metadata(folder: str | Path) -> dict[str, str]:
    """`myna.json` of a model folder; {} when there is none.

    Raises:
        ModelError: the file is not a JSON object of strings.
    """
    path = Path(folder) / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError(f"more than {MAX_METADATA_BYTES:,} bytes")
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: expected a small JSON object; received {error}") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"{path}: expected a JSON object; received a {type(metadata).__name__}")
    return {str(key): str(value) for key, value in metadata.items()}
