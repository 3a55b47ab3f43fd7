"""The nouns: what flows from a recording to a transcript, with units and shapes.

Recording -> (checks) -> Utterance or Refusal -> AudioClip -> Batch -> Transcript
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")


class RefusalReason(StrEnum):
    """Why a recording is set aside; the value is what catalogs, logs and errors print."""

    MISSING_FILE = "missing_file"
    UNREADABLE = "unreadable"  # no decoder understands it, or it may not be opened
    EMPTY_AUDIO = "empty_audio"  # decodes to no samples at all
    TRUNCATED = "truncated"  # ends before the length that its header or manifest declares
    SILENT = "silent"
    NOT_FINITE = "not_finite"  # NaN or infinite samples
    CLIPPED = "clipped"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    EMPTY_TRANSCRIPT = "empty_transcript"  # nothing left after normalisation
    DUPLICATE = "duplicate"  # same audio content (and segment) as an earlier row
    BAD_ROW = "bad_row"  # the manifest row itself: a missing column, a negative offset, an unknown split
    CTC_INFEASIBLE = "ctc_infeasible"  # fewer encoder frames than labels + adjacent repeats
    TOO_MANY_TOKENS = "too_many_tokens"  # over the decoder's token limit (Whisper: 448)


@dataclass(frozen=True, slots=True)
class Recording:
    """One row of a source, as claimed by it and not yet checked."""

    audio_path: Path
    transcript: str
    split: str = ""  # one of SPLITS, "" when the source does not say
    speaker_id: str = ""  # "" when unknown
    language: str = ""  # ISO 639 code, "" when unknown
    duration_seconds: float | None = None  # of the segment, as the source claims
    offset_seconds: float | None = None  # where the segment starts inside the file; None: the file is one recording


@dataclass(frozen=True, slots=True)
class Utterance:
    """One checked row of a dataset version: a piece of audio and what is said in it."""

    utterance_id: str  # 16 hex digits: hash of audio content, segment and transcript
    audio_path: str  # absolute
    transcript: str  # as published
    text: str  # normalised by myna.text.normalize
    duration_seconds: float
    split: str  # one of SPLITS
    speaker_id: str = ""
    language: str = ""
    offset_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """One recording set aside, and why."""

    audio_path: str
    transcript: str
    reason: RefusalReason
    detail: str


@dataclass(frozen=True, slots=True)
class AudioClip:
    """Decoded mono audio."""

    samples: NDArray[np.float32]  # (num_samples,), full scale is [-1, 1]
    sample_rate_hz: int

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    def __repr__(self) -> str:
        return f"AudioClip({len(self.samples)} samples, {self.sample_rate_hz} Hz)"


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances made ready for one forward pass; B utterances padded to the longest of them."""

    utterance_ids: tuple[str, ...]  # B
    features: torch.Tensor  # (B, T, n_mels) float32, zeros beyond each length
    feature_lengths: torch.Tensor  # (B,) int64, frames
    labels: torch.Tensor  # (B, U) int64, -100 beyond each length
    label_lengths: torch.Tensor  # (B,) int64
    weights: torch.Tensor  # (B,) float32: 1, or 0 for a row that only keeps ranks in step
    audio_seconds: float = 0.0  # real audio in the batch, before padding
    failures: tuple[Refusal, ...] = field(default=())  # files that broke since they were prepared

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the data loader calls this by name."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its rows, padded as they are: what a model makes of a row may depend on its padding."""
        part = self._with_tensors(lambda tensor: tensor[start:stop])
        share = float(part.feature_lengths.sum() / self.feature_lengths.sum())
        return replace(
            part,
            utterance_ids=self.utterance_ids[start:stop],
            audio_seconds=share * self.audio_seconds,
            failures=self.failures if start == 0 else (),
        )

    def _with_tensors(self, move) -> Batch:  # type: ignore[no-untyped-def]
        return replace(
            self,
            features=move(self.features),
            feature_lengths=move(self.feature_lengths),
            labels=move(self.labels),
            label_lengths=move(self.label_lengths),
            weights=move(self.weights),
        )

    def __repr__(self) -> str:
        return f"Batch(features {tuple(self.features.shape)}, labels {tuple(self.labels.shape)})"


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float  # [0, 1]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a model heard in one clip."""

    text: str
    confidence: float = 0.0  # [0, 1]: geometric mean of its tokens' probabilities; 0 when not computed
    words: tuple[Word, ...] = ()  # empty when timestamps were not asked for
    duration_seconds: float = 0.0  # of the audio
    language: str = ""
