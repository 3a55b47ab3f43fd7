from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clips import SmallProcessor, write_clips

from myna.errors import FeedError
from myna.feed import payload
from myna.feed.batches import make_batch
from myna.feed.payload import from_bytes, to_bytes
from myna.samples import Batch, Refusal, RefusalReason


def equal(one: Batch, other: Batch) -> bool:
    tensors = ("features", "feature_lengths", "labels", "label_lengths", "weights")
    same = all(
        getattr(one, name).dtype == getattr(other, name).dtype and torch.equal(getattr(one, name), getattr(other, name))
        for name in tensors
    )
    rest = ("utterance_ids", "audio_seconds", "failures")
    return same and all(getattr(one, name) == getattr(other, name) for name in rest)


def test_a_batch_comes_back_bit_for_bit(tmp_path):
    batch = make_batch(write_clips(tmp_path)[:4], SmallProcessor())
    batch = replace(batch, failures=(Refusal("/a.wav", "Ä", RefusalReason.TRUNCATED, "expected 2 s"),))
    assert equal(from_bytes(to_bytes(batch)), batch)


def test_features_are_rounded_before_they_are_packed(tmp_path):
    features = make_batch(write_clips(tmp_path)[:1], SmallProcessor()).features
    assert torch.equal(features, features.half().float())


def test_padding_and_repeated_last_frames_take_no_room(tmp_path):
    batch = make_batch(write_clips(tmp_path)[:4], SmallProcessor())
    assert len(to_bytes(batch)) < 2 * 16 * int(batch.feature_lengths.sum()) + 1500
    padded = batch.features.new_full((4, 3000, 16), -0.5)  # as Whisper's front end does
    for row, features, length in zip(padded, batch.features, batch.feature_lengths, strict=True):
        row[:length] = features[:length]
        row[1000:1040] = 0  # a mask
    whisper = replace(batch, features=padded, feature_lengths=torch.full((4,), 3000))
    assert len(to_bytes(whisper)) < len(to_bytes(batch)) + 4 * 3000 + 500
    assert equal(from_bytes(to_bytes(whisper)), whisper)


def test_silence_alone_comes_back(tmp_path):
    batch = make_batch(write_clips(tmp_path)[:1], SmallProcessor())
    silent = replace(batch, features=torch.zeros_like(batch.features))
    assert equal(from_bytes(to_bytes(silent)), silent)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x08" + b"\0" * 7 + b"{}      "])
def test_other_bytes_are_refused(content):
    with pytest.raises(FeedError, match="same version of Myna"):
        from_bytes(content)


def test_lengths_beyond_reason_are_refused(tmp_path, monkeypatch):
    batch = make_batch(write_clips(tmp_path)[:1], SmallProcessor())
    with pytest.raises(FeedError):
        from_bytes(to_bytes(replace(batch, label_lengths=torch.tensor([2**31 - 1]))))
    monkeypatch.setattr(payload, "MAX_ELEMENTS", 100)
    with pytest.raises(FeedError, match="at most 100 are expected"):
        from_bytes(to_bytes(batch))


@pytest.mark.parametrize("name", ["features", "labels"])
def test_few_bytes_that_would_become_very_many_are_refused_before_they_do(name, monkeypatch):
    monkeypatch.setattr(payload, "MAX_ELEMENTS", 1_000_000)
    ones = torch.ones(2, dtype=torch.int64)
    long = 600_000 * ones
    batch = Batch(("a", "b"), torch.zeros(2, 1, 2), ones, torch.zeros(2, 1).long(), ones, torch.ones(2), 1.0)
    if name == "features":
        batch = replace(batch, features=torch.zeros(2, 600_000, 2), feature_lengths=long)
        monkeypatch.setattr(payload, "_padded", None)  # by then they would be there
    else:
        one_long = torch.tensor([600_000, 0])
        batch = replace(batch, labels=torch.zeros(2, 600_000).long(), label_lengths=one_long)
    with pytest.raises(FeedError, match="at most 1000000 are expected"):
        from_bytes(to_bytes(batch))
