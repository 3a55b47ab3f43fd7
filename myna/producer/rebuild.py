"""A run's batches, rebuilt on another process or host from what the trainer tells and a data path of one's own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from myna.audio.augment.chain import AnyTransform, Chain
from myna.errors import FeedError
from myna.feed.epoch import BatchBudget
from myna.feed.selection import short_enough, usable
from myna.feed.work import TrainingBatches
from myna.models.audio_context import AudioContext
from myna.models.processors import load_processor
from myna.producer.recordings import check_recordings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from myna.feed.spec import FeedSpec
    from myna.producer.recordings import DataPath
    from myna.samples import Utterance

logger = logging.getLogger(__name__)


def rebuild(spec: FeedSpec, data: DataPath) -> TrainingBatches:
    """The work of a run: it makes, for the same number, the same bytes as the trainer's own.

    Raises:
        FeedError: libraries, recordings or the work as a whole are not those of the trainer.
        VersionError: the dataset version is not here.
        ConfigError, MissingExtraError: folders or packages that the augmentation needs are not.
    """
    spec.check_versions()
    if data.audio() != spec.audio:
        raise FeedError(
            f"expected {spec.audio} recordings, which the trainer reads; received {data.audio()} ones",
            "Write shards with the same --audio, or give what the trainer was given.",
        )
    context = None if spec.audio_context is None else AudioContext(*spec.audio_context)
    processor = load_processor(spec.processor_files, spec.language, context)
    found = data.utterances(spec.dataset_version, spec.splits)
    check_recordings(found)
    kept = short_enough(usable(found, processor)[0], spec.max_duration_seconds)[0]
    if not kept:
        raise FeedError(f"expected utterances of {', '.join(spec.splits)}; received none that the model can learn from")
    work = TrainingBatches(
        kept,
        processor,
        BatchBudget(spec.step_seconds, spec.num_buckets),
        augment=_chain(spec.augment, data),
        seed=spec.seed,
        parts=spec.parts,
        shard_of=shard_numbers(kept, data) if spec.by_shard else None,
    )
    _compare(spec, work, len(kept))
    return work


def shard_numbers(utterances: Sequence[Utterance], data: DataPath) -> NDArray[np.int64]:
    """A number for each utterance's shard, (num_utterances,): the same wherever the shards lie.

    Raises:
        FeedError: the data path has no shards.
    """
    if not data.shards:
        raise FeedError(
            "expected shards, since the run plans its epochs by them; received a catalog",
            "Give --shards FOLDER instead of --db.",
        )
    tars = [utterance.audio_path.rpartition("#")[0] for utterance in utterances]
    return np.unique(tars, return_inverse=True)[1].astype(np.int64)


def _chain(settings: Sequence[dict[str, Any]], data: DataPath) -> Chain | None:
    """The transforms; folders that they read may lie elsewhere here, as recordings may."""
    if not settings:
        return None
    moved = [
        {name: data.here(value) if isinstance(value, str) else value for name, value in transform.items()}
        for transform in settings
    ]
    try:
        chain = Chain(TypeAdapter(list[AnyTransform]).validate_python(moved))
    except ValidationError as error:
        first = error.errors()[0]
        raise FeedError(
            f"the run's augmentation: {first['msg']}; received {first['input']!r}",
            "See that trainer and producers run the same version of Myna.",
        ) from error
    for note in chain.check():
        logger.warning("%s", note)
    return chain


def _compare(spec: FeedSpec, work: TrainingBatches, kept: int) -> None:
    received = work.fingerprint()
    if received != spec.fingerprint:
        raise FeedError(
            f"expected work with fingerprint {spec.fingerprint[:16]} ({spec.steps_per_epoch} steps an epoch); received "
            f"{received[:16]} ({work.steps_per_epoch} steps of {kept} utterances)",
            "Utterances, labels or augmentation files differ here: copy the trainer's catalog or shards, and the "
            "folders that its augmentation reads.",
        )
