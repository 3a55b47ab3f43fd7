"""A run's batches and the feed they come from, as its configuration asks."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed

from myna.audio.augment.chain import Chain
from myna.feed.diagnosis import ADD_LOADERS, diagnose
from myna.feed.epoch import BatchBudget
from myna.feed.local import GIB, LocalFeed
from myna.feed.redis.connection import place_of
from myna.feed.redis.feed import RedisFeed
from myna.feed.spec import FeedSpec
from myna.feed.work import TrainingBatches
from myna.machine import usable_memory
from myna.models.audio_context import context_to_learn
from myna.models.build import processor_files
from myna.producer.embedded import EMBEDDED, EmbeddedRedis
from myna.producer.rebuild import shard_numbers
from myna.producer.recordings import DataPath
from myna.producer.start import start_producers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console
    from transformers import TrainingArguments

    from myna.config import Config
    from myna.feed.batches import Processor
    from myna.feed.protocol import Feed
    from myna.models.build import AnyRecognizer
    from myna.samples import Utterance

LOCAL_MEMORY_SHARE = 0.1  # of free memory: the plan counts on the rest


def training_batches(
    config: Config, train_split: Sequence[Utterance], processor: Processor, args: TrainingArguments
) -> TrainingBatches:
    """The work of a run: every batch by its number.

    Args:
        config: without `auto`.
        train_split: in the order of IDs.
        processor: of the model.
        args: ranks, and the micro-batches of each.
    """
    settings = config.training
    if config.feed.step_seconds == "auto":
        budget = BatchBudget.from_longest(
            longest_seconds(train_split, processor),
            int(settings.per_device_train_batch_size),
            accumulation=args.gradient_accumulation_steps,
            world_size=args.world_size,
            num_buckets=config.feed.num_buckets,
        )
    else:
        budget = BatchBudget(config.feed.step_seconds, config.feed.num_buckets)
    return TrainingBatches(
        train_split,
        processor,
        budget,
        augment=Chain(config.augment) if config.augment else None,
        seed=settings.seed,
        parts=args.gradient_accumulation_steps * args.world_size,
        shard_of=shard_numbers(train_split, data_path(config)) if config.data.shards else None,
    )


def with_step_seconds(config: Config, work: TrainingBatches) -> Config:
    """The configuration as a resumed run needs it: on another number of ranks its epochs have the same steps."""
    return config.model_copy(update={"feed": config.feed.model_copy(update={"step_seconds": work.budget.step_seconds})})


def longest_seconds(utterances: Sequence[Utterance], processor: Processor) -> float:
    """The longest utterance, as the model pads it."""
    return max(processor.padded_seconds(utterance.duration_seconds) for utterance in utterances)


def total_numbers(work: TrainingBatches, args: TrainingArguments) -> int:
    """Micro-batches of the whole run, all ranks together."""
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * work.steps_per_epoch)
    return int(steps) * work.parts


def data_path(config: Config) -> DataPath:
    """Where the run's recordings are."""
    return DataPath(shards=config.data.shards) if config.data.shards else DataPath(db=config.data.db)


def train_splits(config: Config) -> tuple[str, ...]:
    """The splits that are trained on."""
    return ("train", "valid") if config.training.include_validation else ("train",)


def feed_spec(
    config: Config, work: TrainingBatches, recognizer: AnyRecognizer, version: str, args: TrainingArguments
) -> FeedSpec:
    """What producers on other hosts need to make this run's batches."""
    return FeedSpec(
        dataset_version=version,
        audio=data_path(config).audio(),
        splits=train_splits(config),
        max_duration_seconds=float(config.training.max_duration_seconds),
        step_seconds=work.budget.step_seconds,
        num_buckets=work.budget.num_buckets,
        seed=work.seed,
        parts=work.parts,
        world_size=args.world_size,
        steps_per_epoch=work.steps_per_epoch,
        total=total_numbers(work, args),
        by_shard=work.shard_of is not None,
        language=config.model.language,
        augment=[transform.model_dump(mode="json") for transform in config.augment],
        processor_files=processor_files(recognizer),
        fingerprint=work.fingerprint(),
        audio_context=context_to_learn(config.model),
    )


@contextlib.contextmanager
def open_feed(
    config: Config,
    work: TrainingBatches,
    args: TrainingArguments,
    describe: Callable[[], FeedSpec],
    start: int,
    console: Console,
) -> Iterator[Feed]:
    """The feed that the configuration asks for, with the server and the producers that the run starts itself.

    Args:
        config: without `auto`.
        work: of the run.
        args: ranks.
        describe: gives what producers elsewhere need; called for the home `redis`.
        start: the lowest number that is still to be trained on.
        console: where the command is shown that starts producers.

    Raises:
        FeedError: Redis cannot be used, or another trainer works on the run.
        MissingExtraError: an embedded server is asked for that is not installed.
    """
    limit_bytes = config.feed.max_memory_gb * GIB
    if config.feed.home == "local":
        workers, total = args.dataloader_num_workers, total_numbers(work, args)
        limit = int(min(limit_bytes, LOCAL_MEMORY_SHARE * usable_memory()[1]) / args.world_size)
        with LocalFeed(work, num_workers=workers, total=total, world_size=args.world_size, limit_bytes=limit) as feed:
            yield feed
        return
    is_first, run = args.process_index == 0, run_name(config)
    # Before producers start, who would take the end of an earlier run of this name for the end of this one.
    spec = describe()
    with contextlib.ExitStack() as stack:
        url = redis_url(config)
        if url == EMBEDDED:
            console.print("Batches wait in a Redis of this run's own.")
            url = _from_first_rank(stack.enter_context(EmbeddedRedis()).url if is_first else "", args)
        else:
            source = "--shards SHARDS" if config.data.shards else "--db CATALOG"
            command = f"myna feed --redis {place_of(url)} --run {run} {source}"
            console.print(f"Batches wait in Redis. Producers may join, from any host: {command}", soft_wrap=True)
        own = None
        if is_first and config.feed.producers:  # before the run is published: starting takes them a while
            data, patience = data_path(config), config.feed.patience_seconds
            own = stack.enter_context(
                start_producers(
                    url, run, config.feed.producers, db=data.db, shards=data.shards, patience_seconds=patience
                )
            )
        if not is_first:
            torch.distributed.barrier()  # until the first rank has published the run
        redis_feed = stack.enter_context(
            RedisFeed(
                url,
                run,
                spec,
                start=start + args.process_index,
                limit_bytes=int(limit_bytes),
                rank=args.process_index,
                lease_seconds=config.feed.lease_seconds,
                expire_seconds=config.feed.expire_seconds,
                patience_seconds=config.feed.patience_seconds,
                has_own_producers=(lambda: own.are_alive) if own else None,
            )
        )
        if is_first and args.world_size > 1:
            torch.distributed.barrier()
        yield redis_feed


def run_name(config: Config) -> str:
    """Name under which producers find the run."""
    return config.feed.run or re.sub(r"[^A-Za-z0-9._-]", "-", Path(config.training.output_dir).resolve().name)


def redis_url(config: Config) -> str:
    """Where the container is."""
    return config.feed.redis_url or os.environ.get("MYNA_REDIS_URL", "") or "redis://localhost:6379/0"


def without_password(config: Config) -> Config:
    """The configuration as it may be kept in a file: an address with a password is left out."""
    url = config.feed.redis_url
    if "@" not in url and "password=" not in url:  # not parsed: it may be malformed
        return config
    return config.model_copy(update={"feed": config.feed.model_copy(update={"redis_url": ""})})


def feed_verdict(config: Config, feed: Feed, figures: dict[str, float], args: TrainingArguments) -> str:
    """Throughput of a run and what held it up, in words."""
    utterances, seconds = figures["utterances_per_second"], figures["audio_seconds_per_second"]
    pace = f"{utterances:.1f} utterances, {seconds:.0f} s of audio a second."
    if config.feed.home == "redis":
        return f"{pace} {diagnose(figures['feed_wait_share'], max(1, feed.status().producers))}"
    workers = args.dataloader_num_workers
    if not workers:
        return f"{pace} Making batches took {figures['feed_wait_share']:.0%} of the time, in the trainer itself."
    return f"{pace} {diagnose(figures['feed_wait_share'], workers, add=ADD_LOADERS)}"


def _from_first_rank(text: str, args: TrainingArguments) -> str:
    values = [text]
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
