"""The CTC families as a processor and a recogniser."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from pydantic import TypeAdapter

from myna.audio.features import LogMel
from myna.data.checks import check_labelled, ctc_frames_needed
from myna.errors import ModelError
from myna.feed.batches import Processor
from myna.files import write_atomically
from myna.models import ctc_decode
from myna.models.ctc_model import CTCModel, ctc_losses
from myna.models.recognizer import DecodeOptions, Recognizer, decoding
from myna.models.subsampling import SUBSAMPLING_FACTOR, frame_mask, subsampled_length
from myna.models.tokenizer import TextTokenizer
from myna.samples import AudioClip, Batch, RefusalReason, Transcript, Utterance

if TYPE_CHECKING:
    from torch import Tensor, nn

FEATURES_FILE = "preprocessor_config.json"
MAX_FEATURES_BYTES = 100_000

Count = TypeVar("Count", int, torch.Tensor)


class CTCProcessor:
    """Log-mel features and the labels of the normalised text.

    Args:
        tokenizer: output units.
        log_mel: front end.
    """

    def __init__(self, tokenizer: TextTokenizer, log_mel: LogMel) -> None:
        self.tokenizer = tokenizer
        self.log_mel = log_mel
        self.sample_rate_hz = log_mel.sample_rate_hz

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CTCProcessor:
        """Read what `save_pretrained` wrote.

        Raises:
            ModelError: a file is missing or not one of ours.
        """
        path = Path(folder) / FEATURES_FILE
        try:
            if path.stat().st_size > MAX_FEATURES_BYTES:
                raise ValueError(f"more than {MAX_FEATURES_BYTES:,} bytes")
            values = json.loads(path.read_bytes())
            log_mel = TypeAdapter(LogMel).validate_python({field.name: values[field.name] for field in fields(LogMel)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: expected the settings of LogMel; received {error!r}", "Pass a folder that Myna saved."
            ) from error
        return cls(TextTokenizer.load(folder), log_mel)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` and `tokenizer.json` into `folder`."""
        values = {"feature_extractor_type": "LogMel"} | asdict(self.log_mel)
        write_atomically(Path(folder) / FEATURES_FILE, json.dumps(values, indent=2) + "\n")
        self.tokenizer.save(folder)

    @property
    def frame_seconds(self) -> float:
        """Length of an encoder frame."""
        return SUBSAMPLING_FACTOR * self.log_mel.hop_length / self.sample_rate_hz

    def num_frames(self, num_features: Count) -> Count:
        """Encoder frames of so many feature frames, or of each length in a tensor of them."""
        return subsampled_length(num_features)

    def frames_in(self, duration_seconds: float) -> int:
        """Encoder frames of a clip of this length."""
        return self.num_frames(self.log_mel.num_frames(round(duration_seconds * self.sample_rate_hz)))

    def features(self, clip: AudioClip) -> Tensor:
        """Features (T, n_mels) float32 of a clip at `sample_rate_hz`."""
        return self.log_mel(clip)

    def labels(self, utterance: Utterance) -> list[int]:
        """Token ids of the normalised text."""
        return self.tokenizer.encode(utterance.text)

    def padded_seconds(self, duration_seconds: float) -> float:
        """What a clip of this length costs: its length."""
        return duration_seconds

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """EMPTY_TRANSCRIPT, or CTC_INFEASIBLE when there are fewer encoder frames than labels + adjacent repeats."""
        return ctc_refusal(utterance, self.labels(utterance), self.frames_in(utterance.duration_seconds))


class FrameProcessor(Processor, Protocol):
    """What recognisers by frames ask of a processor besides features and labels."""

    tokenizer: TextTokenizer

    @property
    def frame_seconds(self) -> float:
        """Length of an encoder frame."""

    def num_frames(self, length: Count) -> Count:
        """Encoder frames of so much input, or of each length in a tensor."""


class FrameRecognizer(Recognizer):
    """What CTC recognisers of all families share; each brings its processor and its logits."""

    processor: FrameProcessor

    def losses_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """CTC negative log-likelihoods (B,) in float32, over each clip's own frames."""
        return ctc_losses(logits, self.frames(batch), batch.labels, batch.label_lengths)

    def scored(self, batch: Batch) -> Tensor:
        """Each clip's own frames, (B, T)."""
        return frame_mask(self.frames(batch), self.processor.num_frames(batch.features.shape[1]))

    def items(self, batch: Batch) -> Tensor:
        """Ones (B,): the mean is over clips."""
        return torch.ones_like(batch.weights)

    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        """Greedy for beam_width 1, else prefix beam search; words have times when asked for."""
        processor, language = self.processor, self.metadata.get("language", "")
        with decoding(self.model):
            batch = batch.to(self.device)
            log_probs = self.logits(self.model, batch).float().log_softmax(dim=-1).cpu()  # (B, T, V)
        return [
            ctc_transcript(row[:length], processor.tokenizer, processor.frame_seconds, options, language)
            for row, length in zip(log_probs, self.frames(batch).tolist(), strict=True)
        ]

    def frames(self, batch: Batch) -> Tensor:
        """Encoder frames of each clip, (B,)."""
        return self.processor.num_frames(batch.feature_lengths)


class CTCRecognizer(FrameRecognizer):
    """A CTC model with its processor.

    Args:
        processor: front end and tokenizer; its sizes must be the model's.
        model: a Conformer-CTC or Transformer-CTC.
        metadata: saved in `myna.json`.

    Raises:
        ModelError: the tokenizer or features do not fit the model.
    """

    processor: CTCProcessor

    def __init__(self, processor: CTCProcessor, model: CTCModel, metadata: dict[str, str] | None = None) -> None:
        for name, ours, theirs in (
            ("vocab_size", processor.tokenizer.vocab_size, model.config.vocab_size),
            ("n_mels", processor.log_mel.n_mels, model.config.n_mels),
        ):
            if ours != theirs:
                raise ModelError(f"expected {name}={theirs}, as the model has it; received {ours} in the processor")
        self.processor = processor
        self.model = model
        self.metadata = dict(metadata or {})

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T', V) of each encoder frame."""
        logits: Tensor = model(batch.features, batch.feature_lengths).logits
        return logits


def ctc_refusal(utterance: Utterance, labels: list[int], num_frames: int) -> tuple[RefusalReason, str] | None:
    """EMPTY_TRANSCRIPT, or CTC_INFEASIBLE when there are fewer encoder frames than labels + adjacent repeats."""
    required = ctc_frames_needed(labels)
    if num_frames >= required:
        return check_labelled(utterance)
    repeats = required - len(labels)
    return RefusalReason.CTC_INFEASIBLE, (
        f"expected at least {required} encoder frames ({len(labels)} labels + {repeats} adjacent repeats); "
        f"received {num_frames} ({utterance.duration_seconds:.2f} s)"
    )


def ctc_transcript(
    log_probs: Tensor, tokenizer: TextTokenizer, frame_seconds: float, options: DecodeOptions, language: str = ""
) -> Transcript:
    """What one clip says: greedy for beam_width 1, else prefix beam search; words have times when asked for.

    Args:
        log_probs: (T, V) of the clip's own frames, on the CPU.
        tokenizer: what the V tokens spell.
        frame_seconds: length of an encoder frame.
        options: how to search.
        language: of the transcript.
    """
    if options.beam_width > 1:
        found = ctc_decode.beam_search(log_probs.numpy(), options.beam_width)
    else:
        found = ctc_decode.greedy(log_probs.numpy())
    return Transcript(
        text=tokenizer.decode(found.ids),
        confidence=ctc_decode.geometric_mean(found.confidences),
        words=ctc_decode.words(found, tokenizer.pieces, frame_seconds) if options.timestamps else (),
        duration_seconds=len(log_probs) * frame_seconds,
        language=language,
    )
