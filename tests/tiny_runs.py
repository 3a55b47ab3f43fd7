"""Tiny runs: settings of one that learns; and one's work as a trainer has it, and the same told to producers."""

from __future__ import annotations

from pathlib import Path

from myna.audio.augment.chain import Chain
from myna.config import Config, load_config
from myna.data.catalog import Catalog
from myna.feed.epoch import BatchBudget
from myna.feed.selection import usable
from myna.feed.spec import FeedSpec
from myna.feed.work import TrainingBatches
from myna.models.build import build_recognizer, processor_files
from myna.producer.rebuild import shard_numbers
from myna.producer.recordings import DataPath

LEARNS = [  # a Conformer that learns the language of tones within seconds
    "data.min_duration_seconds=0.1",
    "model.d_model=48",
    "model.num_encoder_layers=2",
    "model.d_ff=96",
    "model.conv_kernel_size=7",
    "training.per_device_train_batch_size=4",
    "training.learning_rate=3e-3",
    "training.dataloader_num_workers=0",
]
EPOCHS = 3
PARTS = 2
SETTINGS = [
    "data.min_duration_seconds=0.1",
    "model.d_model=16",
    "model.num_encoder_layers=1",
    "model.d_ff=16",
    "model.conv_kernel_size=3",
    "augment=[{type: speed, probability: 0.8}, {type: noise, probability: 0.8}]",
]


def tiny_config(catalog: Path, *overrides: str) -> Config:
    return load_config([], [*SETTINGS, f"data.db={catalog}", *overrides])


def version_of(catalog: Path) -> str:
    """The catalog's newest dataset version."""
    with Catalog(catalog) as opened:
        return opened.version("").version_id


def tiny_work(catalog: Path, *overrides: str, shards: DataPath | None = None) -> tuple[TrainingBatches, FeedSpec]:
    """A run's batches as its trainer makes them, and what it tells producers."""
    config, version = tiny_config(catalog, *overrides), version_of(catalog)
    utterances = (shards or DataPath(str(catalog))).utterances(version, ["train"])
    recognizer = build_recognizer(config, [utterance.text for utterance in utterances])
    kept, _ = usable(utterances, recognizer.processor)
    work = TrainingBatches(
        kept,
        recognizer.processor,
        BatchBudget(16.0, 4),
        augment=Chain(config.augment) if config.augment else None,
        parts=PARTS,
        shard_of=shard_numbers(kept, shards) if shards else None,
    )
    spec = FeedSpec(
        dataset_version=version,
        audio="original",
        splits=("train",),
        max_duration_seconds=30.0,
        step_seconds=work.budget.step_seconds,
        num_buckets=work.budget.num_buckets,
        seed=work.seed,
        parts=work.parts,
        world_size=1,
        steps_per_epoch=work.steps_per_epoch,
        total=work.per_epoch * EPOCHS,
        by_shard=False,
        language="",
        augment=[transform.model_dump() for transform in config.augment],
        processor_files=processor_files(recognizer),
        fingerprint=work.fingerprint(),
    )
    return work, spec
