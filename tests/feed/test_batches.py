from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from myna.audio.augment.chain import Chain
from myna.audio.augment.noise import Noise
from myna.audio.augment.speed import Speed
from myna.audio.augment.warp import Warp
from myna.audio.features import LogMel
from myna.feed.batches import LABEL_PADDING, make_batch
from myna.feed.epoch import BatchBudget
from myna.feed.local import EvaluationBatches, TrainingBatches, evaluation_loader, training_loader
from myna.samples import RefusalReason, Utterance

SECONDS = (0.5, 0.8, 0.6, 1.2, 1.0, 0.7, 0.9)


class SmallProcessor:
    """Log-mels and code points; refuses clips under `shortest_seconds`."""

    sample_rate_hz = 16_000

    def __init__(self, shortest_seconds: float = 0.0) -> None:
        self.features = LogMel(n_mels=16)
        self.shortest_seconds = shortest_seconds

    def labels(self, utterance: Utterance) -> list[int]:
        return [ord(char) for char in utterance.text]

    def padded_seconds(self, duration_seconds: float) -> float:
        return duration_seconds

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        short = utterance.duration_seconds < self.shortest_seconds
        return (RefusalReason.TOO_SHORT, "") if short else None

    def save_pretrained(self, folder: str | Path) -> None:
        raise AssertionError("nothing here saves")


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    rng = np.random.default_rng(0)
    made = []
    for number, seconds in enumerate(SECONDS):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000)
        made.append(Utterance(f"id{number}", str(path), "Ab", "ab" * (number + 1), seconds, "train"))
    return made


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


def seen(batches: TrainingBatches, epoch: int) -> list[str]:
    loader = training_loader(batches, num_workers=0)
    loader.batch_sampler.set_epoch(epoch)
    return [name for batch in loader for name in batch.utterance_ids if batch.weights.any()]


@pytest.mark.parametrize(("accumulation", "world_size"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_every_utterance_once_an_epoch_over_all_ranks(utterances, accumulation, world_size):
    budget = BatchBudget(2.4, num_buckets=3)
    names, steps = [], set()
    for rank in range(world_size):
        batches = TrainingBatches(
            utterances, SmallProcessor(), budget, accumulation=accumulation, rank=rank, world_size=world_size
        )
        names += seen(batches, epoch=1)
        steps.add(len(batches))
    assert sorted(names) == sorted(utterance.utterance_id for utterance in utterances)
    assert len(steps) == 1  # equal micro-batches on every rank


@pytest.mark.slow
def test_loader_processes_make_the_same_bytes(utterances):
    batches = TrainingBatches(
        utterances, SmallProcessor(), BatchBudget(2.4), augment=Chain([Speed(probability=0.5)]), seed=5
    )
    here = list(training_loader(batches, num_workers=0))
    there = list(training_loader(batches, num_workers=2))
    assert [batch.utterance_ids for batch in here] == [batch.utterance_ids for batch in there]
    assert all(torch.equal(a.features, b.features) for a, b in zip(here, there, strict=True))


def test_loading_leaves_the_random_state_alone(utterances):
    before = torch.get_rng_state()
    list(training_loader(TrainingBatches(utterances, SmallProcessor(), BatchBudget(2.4)), num_workers=0))
    list(evaluation_loader(EvaluationBatches(utterances, SmallProcessor(), 2.4), num_workers=0))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_batches_over_ranks_are_the_split(utterances):
    names: list[str] = []
    for rank in range(2):
        batches = EvaluationBatches(utterances, SmallProcessor(), 2.4, rank=rank, world_size=2)
        names += [name for batch in evaluation_loader(batches, num_workers=0) for name in batch.utterance_ids]
    assert sorted(names) == sorted(utterance.utterance_id for utterance in utterances)
