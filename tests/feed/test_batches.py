from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import SmallProcessor, write_clips

from myna.audio.augment.chain import Chain
from myna.audio.augment.noise import Noise
from myna.audio.augment.speed import Speed
from myna.audio.augment.warp import Warp
from myna.errors import FeedError
from myna.feed.batches import LABEL_PADDING, make_batch
from myna.samples import RefusalReason, Utterance


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    return write_clips(tmp_path)


def test_shapes_and_padding(utterances):
    batch = make_batch(utterances[:2], SmallProcessor())
    assert batch.features.shape == (2, 80, 16)  # 0.8 s at 100 frames/s
    assert batch.feature_lengths.tolist() == [50, 80]
    assert batch.labels.tolist() == [[97, 98, LABEL_PADDING, LABEL_PADDING], [97, 98, 97, 98]]
    assert batch.label_lengths.tolist() == [2, 4]
    assert batch.weights.tolist() == [1.0, 1.0]
    assert not batch.features[0, 50:].any()
    assert batch.audio_seconds == pytest.approx(1.3)


def test_draws_depend_on_seed_epoch_and_utterance_alone(utterances):
    chain = Chain([Speed(probability=1.0), Noise(probability=1.0, min_snr_db=10, max_snr_db=20)])
    together = make_batch(utterances[:3], SmallProcessor(), augment=chain, seed=1, epoch=2)
    alone = make_batch(utterances[2:3], SmallProcessor(), augment=chain, seed=1, epoch=2)
    length = int(alone.feature_lengths[0])
    assert torch.equal(together.features[2, :length], alone.features[0])
    later = make_batch(utterances[2:3], SmallProcessor(), augment=chain, seed=1, epoch=3)
    assert later.features.shape != alone.features.shape or not torch.equal(later.features, alone.features)


def test_a_draw_that_makes_a_clip_infeasible_is_passed_over(utterances):
    faster = Chain([Speed(probability=1.0, min_factor=1.2, max_factor=1.25)])
    plain = make_batch(utterances[:1], SmallProcessor())
    kept = make_batch(utterances[:1], SmallProcessor(shortest_seconds=0.45), augment=faster)
    changed = make_batch(utterances[:1], SmallProcessor(), augment=faster)
    assert torch.equal(kept.features, plain.features)
    assert changed.features.shape[1] < plain.features.shape[1]


def test_a_warped_clip_is_never_shorter_than_its_model_can_take(utterances):
    class Exact(SmallProcessor):
        """Refuses clips of fewer than 45 frames, by the exact count that features will have."""

        def refusal(self, utterance):
            few = self.features.num_frames(round(utterance.duration_seconds * 16_000)) < 45
            return (RefusalReason.CTC_INFEASIBLE, "") if few else None

    faster_then_stretched = Chain([Speed(min_factor=1.2, max_factor=1.5), Warp(min_time_factor=1, max_time_factor=2)])
    frames = [
        make_batch(utterances[:1], Exact(), augment=faster_then_stretched, epoch=epoch).feature_lengths[0]
        for epoch in range(400)
    ]
    assert min(frames) >= 45


def test_a_file_that_broke_is_named_and_the_rest_is_used(utterances):
    Path(utterances[1].audio_path).write_bytes(b"")
    Path(utterances[2].audio_path).unlink()
    batch = make_batch(utterances[:3], SmallProcessor())
    assert batch.utterance_ids == ("id0",)
    assert [failure.reason for failure in batch.failures] == [RefusalReason.EMPTY_AUDIO, RefusalReason.MISSING_FILE]


def test_a_batch_of_nothing_but_broken_files_weighs_nothing(utterances):
    gone = [replace(utterance, audio_path=utterance.audio_path + "x") for utterance in utterances[:2]]
    batch = make_batch(gone, SmallProcessor())
    assert batch.weights.tolist() == [0.0]
    assert batch.label_lengths.tolist() == [0]
    assert len(batch.failures) == 2


def test_storage_that_cannot_be_reached_is_no_fault_of_the_recordings(utterances):
    away = replace(utterances[1], audio_path="http://127.0.0.1:9/shard-000000.tar#1536+2000")
    with pytest.raises(FeedError, match=r"127\.0\.0\.1:9.*network and the storage"):
        make_batch([utterances[0], away], SmallProcessor())
