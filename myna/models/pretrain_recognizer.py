"""An encoder in pre-training, as a processor and a recogniser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from myna.audio.augment.chain import rng_for
from myna.errors import ModelError
from myna.files import write_atomically
from myna.models.contrastive import MaskedTally, draw_masking, masked_frames
from myna.models.ctc import CTCProcessor
from myna.models.metadata import read_json
from myna.models.recognizer import DecodeOptions, Recognizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor
from myna.samples import Batch, RefusalReason, Transcript, Utterance

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from myna.sections import PretrainConfig

PRETRAINING_FILE = "pretraining.json"  # marks a folder with an encoder that has no words yet
ANNEALED_SHARE = 0.7  # of a run, after which the choice of codes gets no sharper; as in the paper, 277k of 400k steps


def is_pretraining(folder: Path) -> bool:
    """Whether a folder holds an encoder that was pre-trained and has no words yet."""
    return (folder / PRETRAINING_FILE).is_file()


def refuse_pretraining(folder: Path) -> None:
    """See that a folder holds a model with words.

    Raises:
        ModelError: it holds an encoder that was pre-trained only.
    """
    if is_pretraining(folder):
        raise ModelError(
            f"{folder}: expected a recogniser; received an encoder that was pre-trained without transcripts",
            f"Fine-tune it first: myna train model.pretrained={folder}.",
        )


class PretrainProcessor:
    """A recogniser's front end without labels.

    Args:
        front_end: whose features are taken; its tokenizer is not used.
        least_frames: encoder frames of the shortest clip that can be masked.
    """

    def __init__(self, front_end: CTCProcessor | Wav2Vec2Processor, least_frames: int) -> None:
        self.front_end = front_end
        self.least_frames = least_frames
        self.sample_rate_hz = front_end.sample_rate_hz
        self.features = front_end.features
        self.padded_seconds = front_end.padded_seconds

    @classmethod
    def from_pretrained(cls, folder: Path, front_end: CTCProcessor | Wav2Vec2Processor) -> PretrainProcessor:
        """Read what `save_pretrained` wrote beside the front end.

        Raises:
            ModelError: the file is missing or broken.
        """
        values = read_json(folder / PRETRAINING_FILE, "settings of a pre-training")
        least = values.get("least_frames")
        if not isinstance(least, int):
            raise ModelError(f"{folder / PRETRAINING_FILE}: expected least_frames as a number; received {least!r}")
        return cls(front_end, least)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the front end's files and `pretraining.json` into `folder`."""
        self.front_end.save_pretrained(folder)
        write_atomically(Path(folder) / PRETRAINING_FILE, json.dumps({"least_frames": self.least_frames}) + "\n")

    def labels(self, utterance: Utterance) -> list[int]:
        """None: what is said is not looked at."""
        return []

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """TOO_SHORT where a mask would leave nothing to be heard; else None."""
        num_frames = self.front_end.frames_in(utterance.duration_seconds)
        if num_frames >= self.least_frames:
            return None
        return RefusalReason.TOO_SHORT, (
            f"expected at least {self.least_frames} encoder frames, one more than pretrain.mask_time_length; received "
            f"{num_frames} ({utterance.duration_seconds:.2f} s)"
        )


class PretrainRecognizer(Recognizer):
    """An encoder in pre-training: it has losses, and no words yet.

    Args:
        processor: front end.
        model: of `myna.models.pretraining`.
        settings: of the objective.
        metadata: saved in `myna.json`.
    """

    processor: PretrainProcessor

    def __init__(
        self,
        processor: PretrainProcessor,
        model: PreTrainedModel,
        settings: PretrainConfig,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.processor = processor
        self.model = model
        self.metadata = dict(metadata or {})
        self.temperatures = settings.max_gumbel_temperature, settings.min_gumbel_temperature
        self.tally = MaskedTally()
        self.begin_validation()

    def begin_step(self, seed: int, step: int, total_steps: int) -> None:
        """Draws of an optimizer step come from its number; the choice of codes gets sharper from step to step."""
        first, last = self.temperatures
        self.model.quantizer.temperature = first * (last / first) ** min(1.0, step / (ANNEALED_SHARE * total_steps))
        self._drawn_for, self._noisy, self.tally = (seed, step, "pretraining"), True, MaskedTally()

    def begin_validation(self) -> None:
        """The same draws at every validation, and the likeliest codes."""
        self._drawn_for, self._noisy, self.tally = (0, 0, "validation"), False, MaskedTally()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """There are no tokens to score.

        Raises:
            ModelError: always.
        """
        raise _no_words()

    def losses_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """Likewise: `losses` does without logits."""
        raise _no_words()

    def scored(self, batch: Batch) -> Tensor:
        """Likewise."""
        raise _no_words()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Losses (B,) float32, summed over each clip's masked frames."""
        lengths = self.processor.front_end.num_frames(batch.feature_lengths)  # (B,)
        num_frames = self.processor.front_end.num_frames(batch.features.shape[1])
        generators = [self._generator(utterance_id) for utterance_id in batch.utterance_ids]
        drawn = draw_masking(generators, lengths.tolist(), num_frames, self.model.config, noisy=self._noisy)
        masking = {name: part.to(batch.features.device) for name, part in drawn._asdict().items() if part is not None}
        output = model(**self._inputs(batch), **masking)
        counts = torch.where(batch.weights > 0, masking["counts"], 0)
        self.tally.add(output, counts, self.model.config.num_codevectors_per_group)
        losses: Tensor = output.losses
        return losses

    def items(self, batch: Batch) -> Tensor:
        """Masked frames (B,) float32."""
        lengths = self.processor.front_end.num_frames(batch.feature_lengths).tolist()
        counts = [
            len(masked_frames(self._generator(utterance_id), length, self.model.config))
            for utterance_id, length in zip(batch.utterance_ids, lengths, strict=True)
        ]
        return torch.tensor(counts, dtype=batch.weights.dtype, device=batch.weights.device)

    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        """Nothing can be decoded.

        Raises:
            ModelError: always.
        """
        raise _no_words()

    def _generator(self, utterance_id: str) -> np.random.Generator:
        seed, step, purpose = self._drawn_for
        return rng_for(seed, step, f"{purpose} {utterance_id}")

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        front_end = self.processor.front_end
        if isinstance(front_end, CTCProcessor):
            return {"features": batch.features, "feature_lengths": batch.feature_lengths}
        return front_end.inputs(batch)


def _no_words() -> ModelError:
    return ModelError("expected a recogniser with words; received an encoder in pre-training")
