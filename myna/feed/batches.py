"""`make_batch`: utterances to tensors, as a pure function.

The bytes of a batch depend on the utterances, the processor, the seed and the epoch alone: it does not matter
who makes a batch, when, or how often.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from myna.audio.addresses import byte_range, fetch, is_remote
from myna.audio.augment.chain import Chain, rng_for
from myna.audio.decode import decode
from myna.errors import AudioError, FeedError
from myna.samples import AudioClip, Batch, Refusal, RefusalReason, Utterance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABEL_PADDING = -100


class Processor(Protocol):
    """A model's front end and tokenizer, without its weights: what a producer of batches needs."""

    sample_rate_hz: int

    def features(self, clip: AudioClip) -> torch.Tensor:
        """Features (T, n_mels) float32 of a clip at `sample_rate_hz`."""

    def labels(self, utterance: Utterance) -> list[int]:
        """Target ids of an utterance, without padding."""

    def padded_seconds(self, duration_seconds: float) -> float:
        """What a clip of this length costs once the front end has padded it."""

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """Why the model cannot learn from this utterance, or None when it can."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the processor's files into `folder`."""


def make_batch(
    utterances: Sequence[Utterance],
    processor: Processor,
    *,
    augment: Chain | None = None,
    seed: int = 0,
    epoch: int = 0,
    filler: Utterance | None = None,
) -> Batch:
    """Decode, augment, featurise and pad.

    Features are rounded to half precision, which a container keeps them in: so they are the same whether a batch came
    through one or not.

    A file that broke since it was prepared is left out and named in `Batch.failures`.

    Args:
        utterances: the rows, in order.
        processor: of the model to train.
        augment: transforms whose draws come from (seed, epoch, utterance id).
        seed: of the run.
        epoch: from 0.
        filler: used with weight 0 when nothing else is left, so that ranks stay in step.

    Raises:
        FeedError: recordings on another machine cannot be reached: no fault of theirs, so none is left out for it.
    """
    rows: list[tuple[Utterance, torch.Tensor, float]] = []
    failures: list[Refusal] = []
    for utterance, source in zip(utterances, _sources(utterances), strict=True):
        try:
            clip = _decode(utterance, source, processor.sample_rate_hz)
        except AudioError as error:
            failures.append(Refusal(utterance.audio_path, utterance.transcript, error.reason, error.detail))
            continue
        rows.append((utterance, _features(utterance, clip, processor, augment, seed, epoch), clip.duration_seconds))
    weight = 1.0
    if not rows:
        rows.append(_silent_row(filler or utterances[0], processor))
        weight = 0.0
    labels = [torch.tensor(processor.labels(utterance), dtype=torch.int64) for utterance, _, _ in rows]
    return Batch(
        utterance_ids=tuple(utterance.utterance_id for utterance, _, _ in rows),
        features=pad_sequence([features.half().float() for _, features, _ in rows], batch_first=True),  # (B, T, n_mels)
        feature_lengths=torch.tensor([len(features) for _, features, _ in rows]),
        labels=pad_sequence(labels, batch_first=True, padding_value=LABEL_PADDING),  # (B, U)
        label_lengths=torch.tensor([len(row) for row in labels]),
        weights=torch.full((len(rows),), weight),
        audio_seconds=weight * sum(seconds for _, _, seconds in rows),
        failures=tuple(failures),
    )


def _sources(utterances: Sequence[Utterance]) -> list[str | bytes | AudioError]:
    """What to decode: paths as they are, and the bytes of members of tars, all read together."""
    paths = [utterance.audio_path for utterance in utterances]
    members = [path for path in paths if byte_range(path) is not None]
    contents = dict(zip(members, fetch(members), strict=True)) if members else {}
    for path, content in contents.items():
        if isinstance(content, AudioError) and content.reason is RefusalReason.UNREADABLE and is_remote(path):
            raise FeedError(content.detail, "See that the network and the storage can be reached from here.")
    return [contents.get(path, path) for path in paths]


def _decode(utterance: Utterance, source: str | bytes | AudioError, sample_rate_hz: int) -> AudioClip:
    if isinstance(source, AudioError):
        raise source
    return decode(
        source,
        offset_seconds=utterance.offset_seconds,
        duration_seconds=utterance.duration_seconds,
        sample_rate_hz=sample_rate_hz,
    )


def _features(
    utterance: Utterance, clip: AudioClip, processor: Processor, augment: Chain | None, seed: int, epoch: int
) -> torch.Tensor:
    if augment is None:
        return processor.features(clip)
    drawn = augment.draw(rng_for(seed, epoch, utterance.utterance_id))
    changed = augment.apply_audio(clip, drawn)
    plain = processor.features(changed)
    features = augment.apply_features(plain, drawn)
    # A shortened clip may have too few frames for its labels: such a draw is passed over, not trained on.
    seconds = changed.duration_seconds
    if len(features) != len(plain):  # a frame may stand for a little less than its share of the clip
        seconds *= len(features) / (len(plain) + 1)
    if processor.refusal(replace(utterance, duration_seconds=seconds)) is not None:
        return processor.features(clip)
    return features


def _silent_row(utterance: Utterance, processor: Processor) -> tuple[Utterance, torch.Tensor, float]:
    """Half a second of nothing, with nothing said in it."""
    silence = AudioClip(np.zeros(processor.sample_rate_hz // 2, dtype=np.float32), processor.sample_rate_hz)
    return replace(utterance, text="", transcript=""), processor.features(silence), 0.0
