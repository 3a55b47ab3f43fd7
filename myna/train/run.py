"""`myna train`: from a configuration and a dataset version to a run folder.

runs/my-run/
  config.yaml      the whole configuration
  dataset.json     the dataset version the run is bound to, and what its model could not use
  metrics.jsonl    every logged figure
  checkpoint-N/    periodic checkpoints; `best` and `last` point at two of them
  result.json      how it ended
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from myna.audio.augment.chain import Chain
from myna.config import Config, load_config
from myna.errors import MissingExtraError, TrainingError, VersionError
from myna.feed.evaluation import EvaluationBatches
from myna.feed.selection import short_enough, usable
from myna.files import write_atomically
from myna.machine import grow_cuda_segments, return_freed_memory
from myna.models.adapters import set_compute_dtype
from myna.models.build import build_recognizer
from myna.models.folders import refuse_other_base
from myna.models.front_end import run_front_end_by_clip
from myna.models.recognizer import DecodeOptions
from myna.train.blank_watch import BlankWatch
from myna.train.callbacks import CleanStop, ConsoleProgress, EpochEnds, RunLog
from myna.train.checkpoint import latest_checkpoint, step_of
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
from myna.train.speed_watch import SpeedWatch
from myna.train.trainer import SpeechTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerCallback

    from myna.feed.protocol import Feed
    from myna.feed.work import TrainingBatches
    from myna.models.recognizer import Recognizer
    from myna.samples import Refusal, Utterance

# Keys of the training section that are not passed on as they are; gradient checkpointing has two names in
# transformers 5, one of them deprecated, so the model is told itself.
_OURS = {
    "early_stopping_patience",
    "save_every_epochs",
    "lr_scheduler_type",
    "metric_for_best_model",
    "gradient_checkpointing",
    "include_validation",
    "effective_batch_size",
    "safety_margin",
    "max_duration_seconds",
    "learning_rates",
    "optim",
    "torch_compile",
}
OPTIMIZER = "adamw_torch_fused"  # where nothing was planned

logger = logging.getLogger(__name__)


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
    feed_wait_share: float  # of the time, the trainer waited for batches
    utterances_per_second: float
    audio_seconds_per_second: float


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
        TrainingError: the run folder is taken, or there is nothing to train on.
        VersionError: the dataset is not the one that the resumed run is bound to.
    """
    console = (console or Console(stderr=True)) if is_first_rank() else Console(quiet=True)
    run_folder = Path(config.training.output_dir)
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
    train_split, refused = usable(train_split, recognizer.processor)
    valid_split, refused_valid = usable(valid_split, recognizer.processor)
    refused += refused_valid
    _require_data(config, train_split, valid_split)
    _describe(console, config, recognizer, version, train_split, valid_split, refused)
    for note in Chain(config.augment).check():
        console.print(note)
    config, plan = with_plan(config, recognizer, train_split)
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
        refuse_other_base(Path(checkpoint), recognizer.metadata)
    expected = plan.feed.memory if plan else None
    watchers = [MemoryMonitor(expected.peak_bytes if expected and expected.traced else None), stop]
    if plan is not None and plan.speed is not None:
        watchers.append(SpeedWatch(plan.speed, run_folder / "plan.json", console))
    if config.model.family != "whisper":
        watchers.append(BlankWatch(config, recognizer, train_split, console))
    watchers += [RunLog(run_folder / "metrics.jsonl"), ConsoleProgress(console)]
    args = training_arguments(config)
    if resume:
        args.eval_on_start = False  # done before the first checkpoint
    work = training_batches(config, train_split, recognizer.processor, args)
    if is_first_rank():
        kept = without_password(with_step_seconds(config, work))
        write_atomically(run_folder / "config.yaml", kept.to_yaml())
        dataset = {"dataset_version": version, "refused": [asdict(refusal) for refusal in refused]}
        write_atomically(run_folder / "dataset.json", json.dumps(dataset, ensure_ascii=False, indent=2))
        if plan is not None:
            write_atomically(run_folder / "plan.json", json.dumps(plan.to_json(), ensure_ascii=False, indent=2))
    start = max(0, step_of(Path(checkpoint))) * work.parts if checkpoint else 0
    with open_feed(
        config, work, args, lambda: feed_spec(config, work, recognizer, version, args), start, console
    ) as feed:
        trainer = _trainer(config, recognizer, work, feed, valid_split, args, watchers)
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        figures = trainer.taken.all_along.figures()
        console.print(feed_verdict(config, feed, figures, args), soft_wrap=True)
        if not stop.requested:
            feed.finish()
    broken = _broken(trainer)
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
    work: TrainingBatches,
    feed: Feed,
    valid_split: list[Utterance],
    args: TrainingArguments,
    watchers: list[TrainerCallback],
) -> SpeechTrainer:
    settings = config.training
    if settings.gradient_checkpointing:
        recognizer.model.gradient_checkpointing_enable({"use_reentrant": False})
    valid_batches = EvaluationBatches(
        valid_split,
        recognizer.processor,
        longest_seconds(work.utterances, recognizer.processor) * int(settings.per_device_eval_batch_size),
        rank=args.process_index,
        world_size=args.world_size,
    )
    save_every_epochs = settings.save_every_epochs if settings.save_strategy == "epoch" else 0
    callbacks = [*watchers, EpochEnds(work.steps_per_epoch, save_every_epochs)]
    if settings.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    return SpeechTrainer(
        recognizer,
        feed,
        work.per_epoch,
        valid_batches,
        args=args,
        decode_options=DecodeOptions(language=config.model.language, **config.decode.model_dump()),
        one_cycle_schedule=settings.lr_scheduler_type == "one_cycle",
        learning_rates=settings.learning_rates.model_dump(exclude_none=True),
        callbacks=callbacks,
    )


def training_arguments(config: Config) -> TrainingArguments:
    """`transformers.TrainingArguments` of the training section.

    Raises:
        MissingExtraError: a tracker is asked for that is not installed.
    """
    settings = config.training
    for tracker in settings.report_to:
        if find_spec(tracker) is None:
            raise MissingExtraError(tracker, "track")
    if settings.report_to:  # trackers take their places from the environment alone
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(settings.output_dir) / "tensorboard")
        os.environ["WANDB_DIR"] = settings.output_dir
        os.environ.setdefault("WANDB_PROJECT", "myna")
        os.environ.setdefault("WANDB_SILENT", "true")  # it would write on standard output at exit
    values = settings.model_dump(exclude=_OURS)
    if settings.save_strategy == "epoch":
        values["save_strategy"] = "no"  # EpochEnds does it, every N epochs
    arguments = TrainingArguments(
        **values,
        lr_scheduler_type="linear" if settings.lr_scheduler_type == "one_cycle" else settings.lr_scheduler_type,
        metric_for_best_model=settings.metric_for_best_model,
        greater_is_better=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        optim=OPTIMIZER if settings.optim == "auto" else settings.optim,
        torch_compile=settings.torch_compile is True,
        # Not told so, ranks without an accelerator would each train alone, unaware of one another.
        use_cpu=not torch.accelerator.is_available(),
    )
    if arguments.n_gpu > 1:  # alone with several cards: the Trainer would cut batches up by DataParallel
        arguments._n_gpu = 1
        logger.warning("This run uses one of %d GPUs; torchrun uses them all.", torch.cuda.device_count())
    return arguments


def compute_dtype(config: Config) -> torch.dtype:
    """What the layers of a 4-bit model compute in: as asked for, else what the run computes in."""
    training = config.training
    of_run = "bf16" if training.bf16 is True else "fp16" if training.fp16 is True else "fp32"
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return names[of_run if config.adapter.compute_dtype == "auto" else config.adapter.compute_dtype]


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
    if trainer.args.world_size == 1:
        return list(trainer.failures.values())
    parts: list[Any] = [None] * trainer.args.world_size
    torch.distributed.all_gather_object(parts, trainer.failures)
    merged: dict[str, Refusal] = {}
    for part in parts:
        merged.update(part)
    return list(merged.values())
