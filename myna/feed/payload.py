"""A batch as bytes, and back: safetensors, features in half precision and without padding."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch.nn.utils.rnn import pad_sequence

from myna.errors import FeedError
from myna.feed.batches import LABEL_PADDING
from myna.samples import Batch, Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = "1"
KEY = "batch"  # of what is not a tensor
MAX_ELEMENTS = 2**30  # of padded features (4 GiB) or labels (8 GiB)


def to_bytes(batch: Batch) -> bytes:
    """The batch, losslessly: `make_batch` has rounded its features to half precision already.

    Frames that repeat the one before, as a front end's own padding and masks do, are kept once.
    """
    lengths = batch.feature_lengths.tolist()
    frames = torch.cat([row[:length] for row, length in zip(batch.features, lengths, strict=True)]).half()
    starts = _starts_of_runs(frames)  # (sum of lengths,)
    labels = [row[:length] for row, length in zip(batch.labels, batch.label_lengths.tolist(), strict=True)]
    tensors = {
        "features": frames[starts] if starts is not None else frames,  # (runs, n_mels)
        "feature_lengths": batch.feature_lengths.int(),
        "labels": torch.cat(labels).int(),
        "label_lengths": batch.label_lengths.int(),
        "weights": batch.weights,
    }
    if starts is not None:
        tensors["starts"] = starts
    about = {
        "format": FORMAT,
        "utterance_ids": batch.utterance_ids,
        "audio_seconds": batch.audio_seconds,
        "failures": [asdict(refusal) for refusal in batch.failures],
    }
    return save(tensors, {KEY: json.dumps(about)})  # in one value: safetensors writes several in any order


def from_bytes(payload: bytes) -> Batch:
    """The batch that `to_bytes` was given.

    Raises:
        FeedError: the bytes are not such a batch.
    """
    try:
        tensors = load(payload)
        about = _metadata(payload)
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        lengths = tensors["feature_lengths"].long()
        frames = tensors["features"].float()
        if "starts" in tensors:
            _check_elements(len(tensors["starts"]) * frames.shape[1])
            frames = frames[tensors["starts"].cumsum(0) - 1]  # (sum of lengths, n_mels)
        rows = torch.split(frames, lengths.tolist())
        labels = torch.split(tensors["labels"].long(), tensors["label_lengths"].tolist())
        return Batch(
            utterance_ids=tuple(about["utterance_ids"]),
            features=_padded(rows),  # (B, T, n_mels)
            feature_lengths=lengths,
            labels=_padded(labels, LABEL_PADDING),  # (B, U)
            label_lengths=tensors["label_lengths"].long(),
            weights=tensors["weights"],
            audio_seconds=about["audio_seconds"],
            failures=tuple(
                Refusal(**(fields | {"reason": RefusalReason(fields["reason"])})) for fields in about["failures"]
            ),
        )
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise FeedError(
            f"expected a batch of format {FORMAT}; received {len(payload)} bytes that are none: {error}",
            "See that trainer and producers run the same version of Myna.",
        ) from error


def _starts_of_runs(frames: torch.Tensor) -> torch.Tensor | None:
    """Which frames differ from the one before, (T,) bool; None where leaving out the others would not save room."""
    starts = torch.ones(len(frames), dtype=torch.bool)
    starts[1:] = (frames[1:] != frames[:-1]).any(dim=1)
    saved = int((~starts).sum()) * frames[0].nbytes
    return starts if saved > len(starts) else None  # a byte says of each frame whether it differs


def _padded(rows: Sequence[torch.Tensor], padding: float = 0.0) -> torch.Tensor:
    _check_elements(len(rows) * max(len(row) for row in rows) * math.prod(rows[0].shape[1:]))
    return pad_sequence(list(rows), batch_first=True, padding_value=padding)


def _check_elements(count: int) -> None:
    """A few bytes can stand for very many elements: asked before there is room made for them."""
    if count > MAX_ELEMENTS:
        raise ValueError(f"{count} elements where at most {MAX_ELEMENTS} are expected")


def _metadata(payload: bytes) -> dict[str, Any]:
    """What the header says besides; safetensors' own loader for bytes leaves it out."""
    size = int.from_bytes(payload[:8], "little")
    about: dict[str, Any] = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"][KEY])
    return about
