"""`myna train`: from a configuration and a dataset version to a run folder.

runs/my-run/
  config.yaml      the whole configuration
  dataset.json     the dataset version the run is bound to, its ranks, and what its model could not use
  metrics.jsonl    every logged figure
  results/         ttq_log.json: error rates by hours of training, milestones and forecasts
  checkpoint-N/    periodic checkpoints; `best` and `last` point at two of them
  result.json      how it ended
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from myna.audio.augment.chain import Chain
from myna.config import Config, load_config
from myna.errors import TrainingError, VersionError
from myna.feed.evaluation import EvaluationBatches
from myna.feed.selection import short_enough, usable
from myna.files import write_atomically
from myna.machine import grow_cuda_segments, return_freed_memory
from myna.models.adapters import set_compute_dtype
from myna.models.audio_context import context_to_learn
from myna.models.build import build_recognizer
from myna.models.folders import refuse_other_origin
from myna.models.front_end import run_front_end_by_clip
from myna.models.memory_limit import MemoryLimit
from myna.models.recognizer import DecodeOptions
from myna.train.arguments import compute_dtype, training_arguments, training_dtype
from myna.train.blank_watch import BlankWatch
from myna.train.callbacks import SCORES, CleanStop, ConsoleProgress, EpochEnds, RunLog
from myna.train.checkpoint import latest_checkpoint, step_of
from myna.train.context_check import ContextVerdict, settled_context
from myna.train.feeding import (
    data_path,
    feed_spec,
    feed_verdict,
    longest_seconds,
    open_feed,
    train_splits,
    training_batches,
    with_step_seconds,
    without_password,
)
from myna.train.memory_monitor import MemoryMonitor
from myna.train.planned import with_plan
from myna.train.pretrain import PretrainTrainer
from myna.train.ranks import gathered, shared_out
from myna.train.sharded_trainer import ShardedTrainer, refuse_one_rank
from myna.train.speed_watch import SpeedWatch
from myna.train.split_watch import SplitWatch
from myna.train.teacher import Distillation, load_teacher, teacher_note
from myna.train.trainer import SpeechTrainer
from myna.train.ttq import TimeToQuality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerCallback

    from myna.feed.protocol import Feed
    from myna.feed.work import TrainingBatches
    from myna.models.recognizer import Recognizer
    from myna.samples import Refusal, Utterance


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    run_folder: Path
    dataset_version: str
    steps: int
    stopped_early: bool  # by a signal: go on with --resume
    best_step: int | None
    best_metric: float | None  # of training.metric_for_best_model, on the validation split
    train_loss: float
    seconds: float
    refused: int  # utterances that the model could not learn from
    broken_files: int  # files that could not be read during the run
    oom_splits: int  # how often a micro-batch was cut because memory ran out
    feed_wait_share: float  # of the time, the trainer waited for batches
    utterances_per_second: float
    audio_seconds_per_second: float
    audio_context: ContextVerdict | None  # of a Whisper that was trained in short context


def is_first_rank() -> bool:
    """Whether this process is the one that writes and speaks, under torchrun or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def train(config: Config, *, resume: str = "", console: Console | None = None) -> TrainResult:
    """Train a recogniser.

    Args:
        config: everything; with `resume`, the one that `resumed_config` gives.
        resume: run folder to go on with, from its newest checkpoint.
        console: where progress is shown; standard error by default.

    Raises:
        TrainingError: the run folder is taken, there is nothing to train on, or one rank to spread over.
        VersionError: the dataset is not the one that the resumed run is bound to.
    """
    console = (console or Console(stderr=True)) if is_first_rank() else Console(quiet=True)
    run_folder = Path(config.training.output_dir)
    if config.training.fsdp:
        refuse_one_rank()
    if not resume and is_first_rank():  # the others may come when the first has begun to write
        _refuse_taken(run_folder)
    data = data_path(config)
    version = data.version(_bound_version(run_folder, config) if resume else config.data.version)
    train_split = data.utterances(version, train_splits(config))
    valid_split = [] if config.training.include_validation else data.utterances(version, ["valid"])
    return_freed_memory()
    grow_cuda_segments()
    set_seed(config.training.seed)
    recognizer = build_recognizer(config, [utterance.text for utterance in train_split])
    recognizer.metadata["dataset_version"] = version
    recognizer.metadata["training_splits"] = " ".join(train_splits(config))
    teacher = load_teacher(config, recognizer)
    train_split, refused = usable(train_split, recognizer.processor)
    valid_split, refused_valid = usable(valid_split, recognizer.processor)
    refused += refused_valid
    _require_data(config, train_split, valid_split)
    _describe(console, config, recognizer, version, train_split, valid_split, refused)
    if teacher is not None:
        console.print(teacher_note(config, teacher))
    for note in Chain(config.augment).check():
        console.print(note)
    config, plan = with_plan(config, recognizer, train_split, teacher)
    if plan is not None:
        console.print("\n".join([plan.summary, *plan.notes]))
    train_split, too_long = short_enough(train_split, float(config.training.max_duration_seconds))
    if too_long:
        refused += too_long
        console.print(f"{len(too_long)} set aside as too long, for instance {too_long[0].audio_path}")
        _require_data(config, train_split, valid_split)
    set_compute_dtype(recognizer.model, compute_dtype(config))
    if config.model.front_end_by_clip is True:
        run_front_end_by_clip(recognizer.model)
    stop = CleanStop(console)
    checkpoint = str(latest_checkpoint(run_folder)) if resume else None
    if checkpoint:
        refuse_other_origin(Path(checkpoint), recognizer.metadata)
    expected = plan.feed.memory if plan else None
    limit = MemoryLimit()
    watchers = [MemoryMonitor(expected.peak_bytes if expected and expected.traced else None), stop]
    watchers.append(SplitWatch(limit, run_folder / "plan.json", console))
    if plan is not None and plan.speed is not None:
        watchers.append(SpeedWatch(plan.speed, run_folder / "plan.json", console))
    if config.model.family != "whisper" and config.training.objective != "pretrain":
        watchers.append(BlankWatch(config, recognizer, train_split, console))
    watchers += [RunLog(run_folder / "metrics.jsonl"), ConsoleProgress(console, SCORES[config.training.objective])]
    args = training_arguments(config)
    if resume:
        args.eval_on_start = False  # done before the first checkpoint
    started_ranks = _started_ranks(run_folder, args) if resume else args.world_size
    args.gradient_accumulation_steps, note = shared_out(
        args.gradient_accumulation_steps, started_ranks, args.world_size
    )
    if note:
        console.print(note)
    work = training_batches(config, train_split, recognizer.processor, args)
    if is_first_rank():
        kept = without_password(with_step_seconds(config, work))
        write_atomically(run_folder / "config.yaml", kept.to_yaml())
        dataset = {
            "dataset_version": version,
            "ranks": started_ranks,
            "refused": [asdict(refusal) for refusal in refused],
        }
        write_atomically(run_folder / "dataset.json", json.dumps(dataset, ensure_ascii=False, indent=2))
        if plan is not None:
            write_atomically(run_folder / "plan.json", json.dumps(plan.to_json(), ensure_ascii=False, indent=2))
    if config.training.objective == "transcribe" and config.training.eval_strategy != "no":
        watchers.append(_time_to_quality(config, work.steps_per_epoch, console))
    start = max(0, step_of(Path(checkpoint))) * work.parts if checkpoint else 0
    with open_feed(
        config, work, args, lambda: feed_spec(config, work, recognizer, version, args), start, console
    ) as feed:
        trainer = _trainer(config, recognizer, teacher, work, feed, valid_split, args, limit, watchers)
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        figures = trainer.taken.all_along.figures()
        console.print(feed_verdict(config, feed, figures, args), soft_wrap=True)
        if not stop.requested:
            feed.finish()
    broken = _broken(trainer)
    context = None
    if context_to_learn(config.model) is not None and not stop.requested and is_first_rank():
        context = settled_context(config, trainer, train_split)
        console.print(str(context), soft_wrap=True)
    for refusal in broken:
        console.print(f"broken since it was prepared: {refusal.audio_path}: {refusal.reason}: {refusal.detail}")
    result = TrainResult(
        run_folder=run_folder,
        dataset_version=version,
        steps=trainer.state.global_step,
        stopped_early=stop.requested,
        best_step=trainer.state.best_global_step,
        best_metric=trainer.state.best_metric if trainer.state.best_global_step is not None else None,
        train_loss=outcome.training_loss,
        seconds=outcome.metrics["train_runtime"],
        refused=len(refused),
        broken_files=len(broken),
        oom_splits=trainer.limit.splits,
        audio_context=context,
        **figures,
    )
    if is_first_rank():
        write_atomically(run_folder / "result.json", json.dumps(asdict(result), default=str, indent=2))
    return result


def resumed_config(run_folder: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration that a run was started with, with overrides on top.

    Raises:
        TrainingError: the folder is not a run.
    """
    path = Path(run_folder) / "config.yaml"
    if not path.is_file():
        raise TrainingError(
            f"--resume {run_folder}: expected a run folder with config.yaml; there is none",
            "Give the folder that `myna train` printed, such as runs/run.",
        )
    return load_config([str(path)], [*overrides, f"training.output_dir={run_folder}"])


def _refuse_taken(run_folder: Path) -> None:
    if run_folder.exists() and not run_folder.is_dir():
        raise TrainingError(
            f"training.output_dir {run_folder}: expected a folder; received a file",
            "Choose another training.output_dir.",
        )
    if run_folder.exists() and any(run_folder.iterdir()):
        raise TrainingError(
            f"training.output_dir {run_folder}: expected a new or empty folder; it holds files",
            f"Go on with that run by --resume {run_folder}, or choose another training.output_dir.",
        )


def _bound_version(run_folder: Path, config: Config) -> str:
    bound: str = json.loads((run_folder / "dataset.json").read_text())["dataset_version"]
    if config.data.version and not bound.startswith(config.data.version):
        raise VersionError(
            f"--resume {run_folder}: expected dataset version {bound}, which the run is bound to; "
            f"received data.version={config.data.version}",
            "Start a new run to train on other data; model.pretrained can start it from this run's weights.",
        )
    return bound


def _started_ranks(run_folder: Path, args: TrainingArguments) -> int:
    """Ranks that the run was started on; a run of an earlier version does not say."""
    bound = json.loads((run_folder / "dataset.json").read_text())
    return int(bound.get("ranks", args.world_size))


def _require_data(config: Config, train_split: list[Utterance], valid_split: list[Utterance]) -> None:
    if not train_split:
        raise TrainingError(
            "the training split: expected utterances; received none that this model can learn from",
            "See `myna stats` for the splits and dataset.json of the run for what was refused.",
        )
    if not valid_split and config.training.eval_strategy != "no":
        raise TrainingError(
            "the validation split: expected utterances; received none",
            "Prepare with data.valid_ratio=0.1, or set training.eval_strategy=no.",
        )


def _trainer(
    config: Config,
    recognizer: Recognizer,
    teacher: Recognizer | None,
    work: TrainingBatches,
    feed: Feed,
    valid_split: list[Utterance],
    args: TrainingArguments,
    limit: MemoryLimit,
    watchers: list[TrainerCallback],
) -> SpeechTrainer:
    settings = config.training
    if settings.gradient_checkpointing:
        recognizer.model.gradient_checkpointing_enable({"use_reentrant": False})
    valid_batches = EvaluationBatches(
        valid_split,
        recognizer.processor,
        batch_seconds=longest_seconds(work.utterances, recognizer.processor) * int(settings.per_device_eval_batch_size),
        rank=args.process_index,
        world_size=args.world_size,
    )
    save_every_epochs = settings.save_every_epochs if settings.save_strategy == "epoch" else 0
    callbacks = [*watchers, EpochEnds(work.steps_per_epoch, save_every_epochs)]
    if settings.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    distillation = (
        Distillation.of(config, recognizer, teacher, args.device, training_dtype(config)) if teacher else None
    )
    trainer_class = PretrainTrainer if settings.objective == "pretrain" else SpeechTrainer
    if settings.fsdp:
        trainer_class = ShardedTrainer
    return trainer_class(
        recognizer,
        feed,
        work.per_epoch,
        valid_batches,
        args=args,
        decode_options=DecodeOptions(language=config.model.language, **config.decode.model_dump()),
        one_cycle_schedule=settings.lr_scheduler_type == "one_cycle",
        limit=limit,
        max_retries=settings.max_retries,
        name_of={row.utterance_id: row.audio_path for row in [*work.utterances, *valid_split]}.__getitem__,
        learning_rates=settings.learning_rates.model_dump(exclude_none=True),
        distillation=distillation,
        callbacks=callbacks,
    )


def _time_to_quality(config: Config, steps_per_epoch: int, console: Console) -> TimeToQuality:
    settings = config.training
    for milestone in config.ttq.milestones:
        console.print(f"Milestone: {milestone}.")
    return TimeToQuality(
        config.ttq.milestones,
        settings.stop_at,
        steps_per_epoch if settings.eval_strategy == "epoch" else settings.eval_steps,
        Path(settings.output_dir) / "results" / "ttq_log.json",
        console,
    )


def _describe(
    console: Console,
    config: Config,
    recognizer: Recognizer,
    version: str,
    train_split: list[Utterance],
    valid_split: list[Utterance],
    refused: list[Refusal],
) -> None:
    parameters = sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in recognizer.model.parameters())
    trainable = sum(p.numel() for p in recognizer.model.parameters() if p.requires_grad)
    hours = sum(utterance.duration_seconds for utterance in train_split) / 3600
    console.print(
        f"{config.model.family}: {parameters / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained. "
        f"Dataset {version}: {len(train_split)} utterances ({hours:.2f} h) to train on, {len(valid_split)} to validate."
    )
    if refused:
        console.print(f"{len(refused)} utterances set aside, for instance {refused[0].audio_path}: {refused[0].detail}")


def _broken(trainer: SpeechTrainer) -> list[Refusal]:
    """Files that broke during the run, as all ranks saw them."""
    merged: dict[str, Refusal] = {}
    for part in gathered(trainer.failures, trainer.args.world_size):
        merged.update(part)
    return list(merged.values())
