"""`transformers.Trainer` with our feed, our loss weighting, free-running validation and whole checkpoints."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed
from transformers import PrinterCallback, Trainer
from transformers.trainer_callback import ExportableState
from transformers.utils import logging as transformers_logging

from myna.errors import TrainingError
from myna.files import link_atomically, staged_folder
from myna.metrics import Scores, score
from myna.models.adapters import merged_for_a_while
from myna.train.checkpoint import load_training_state, remove_old, save_training_state, step_of
from myna.train.loader import EpochNumbers, FeedMeter, Taken, training_loader
from myna.train.parameter_groups import parameter_groups
from myna.train.schedule import one_cycle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import DataLoader
    from transformers import TrainingArguments
    from transformers.trainer_callback import TrainerCallback, TrainerControl

    from myna.feed.evaluation import EvaluationBatches
    from myna.feed.protocol import Feed
    from myna.models.recognizer import DecodeOptions, Recognizer
    from myna.samples import Batch, Refusal

NOTHING_READABLE = TrainingError(
    "the validation split: expected recordings that can be read; received none",
    "See that they are where they were when they were prepared, then go on with --resume.",
)
UNLOGGED_LOSS = "unlogged_loss"  # where the trainer's state keeps the loss that no log line holds yet


class SpeechTrainer(Trainer):  # type: ignore[misc]
    """Trains a recogniser on planned batches.

    Args:
        recognizer: what to train.
        feed: where batches come from; the caller closes it.
        per_epoch: micro-batches of an epoch, all ranks together.
        valid_batches: of this rank; may be empty.
        decode_options: how validation hypotheses are searched for.
        one_cycle_schedule: use the one-cycle schedule instead of the arguments' own.
        learning_rates: of parts of the model that learn at another rate than the arguments say.
        args: `transformers.TrainingArguments`; accumulation and ranks must match the feed's numbers.
        callbacks: as in `transformers`.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        feed: Feed,
        per_epoch: int,
        valid_batches: EvaluationBatches,
        *,
        args: TrainingArguments,
        decode_options: DecodeOptions,
        one_cycle_schedule: bool = False,
        learning_rates: Mapping[str, float] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.taken = Taken(feed, per_epoch)
        super().__init__(
            model=recognizer.model,
            args=args,
            train_dataset=self.taken,
            eval_dataset=valid_batches,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # our own callbacks show the progress
        transformers_logging.disable_progress_bar()
        self.recognizer = recognizer
        self.valid_batches = valid_batches
        self.decode_options = decode_options
        self.one_cycle_schedule = one_cycle_schedule
        self.learning_rates = dict(learning_rates or {})
        self.failures: dict[str, Refusal] = {}  # files that broke during the run, by path
        # Our loss is already a mean over the whole step: without this the Trainer would scale it once more.
        self.model_accepts_loss_kwargs = True

    # Feed

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The loader as it is: it shards by rank itself, and accelerate would drop samples of uneven batches."""
        return training_loader(self.taken, EpochNumbers(len(self.taken), self.args.process_index, self.args.world_size))

    def _run_epoch(self, *, train_dataloader: DataLoader[Batch], epoch: int, **rest: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # a finished run was resumed: not a step more
            self.control.should_training_stop = True
            return
        self._restore_unlogged_loss()
        train_dataloader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        super()._run_epoch(train_dataloader=train_dataloader, epoch=epoch, **rest)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """One optimizer step's micro-batches, and what its loss is a mean over.

        Seeds dropout from (seed, step, rank), so that a resumed step draws what the uninterrupted run drew.
        """
        seed = np.random.SeedSequence([self.args.seed, self.state.global_step, self.args.process_index])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        result: tuple[list[Batch], torch.Tensor] = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in result[0]:
            self.failures.update({refusal.audio_path: refusal for refusal in batch.failures})
        return result

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        items = sum(((batch.weights * self.recognizer.items(batch)).sum() for batch in batch_samples), torch.zeros(()))
        total: torch.Tensor = self.accelerator.reduce(items.to(device), reduction="sum")
        return total.clamp(min=1)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return inputs.to(self.args.device, non_blocking=True)

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This micro-batch's share of the step's mean loss.

        DDP averages gradients over ranks while the mean is over the whole step, hence the world size.
        """
        losses = self.recognizer.losses(model, inputs)  # (B,)
        share: torch.Tensor = (inputs.weights * losses).sum() * self.args.world_size / num_items_in_batch
        return share

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        """Log, and with each training loss how the feed kept up since the last."""
        if "loss" in logs:
            logs = logs | self.taken.lately.figures()
            self.taken.lately = FeedMeter()
        super().log(logs, *rest, **named)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not estimated: the stock formula counts text tokens."""
        return 0

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The optimizer of the arguments, with a group for each part that has a rate of its own."""
        if self.optimizer is None and self.learning_rates:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decaying = self.get_decay_parameter_names(self.model)
            rates = self.args.learning_rate, self.args.weight_decay
            groups = parameter_groups(self.recognizer.model, self.learning_rates, *rates, decaying)
            self.optimizer: Optimizer = optimizer_class(groups, **settings)
        super().create_optimizer(model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The schedule of the arguments, or one cycle."""
        if not self.one_cycle_schedule:
            super().create_scheduler(num_training_steps, optimizer)
        elif self.lr_scheduler is None:
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            factor = partial(one_cycle, warmup_steps=warmup_steps, total_steps=num_training_steps)
            self.lr_scheduler: LRScheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Validation

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """What `validate` finds over the whole validation split, logged under the names `eval_...`."""
        started = time.perf_counter()
        self.recognizer.model.eval()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.validate().items()}
        metrics[f"{metric_key_prefix}_seconds"] = round(time.perf_counter() - started, 3)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validate(self) -> dict[str, float]:
        """Loss, and WER and CER of free-running decoding."""
        totals = torch.zeros(2, dtype=torch.float64)  # loss, items
        heard: list[tuple[str, str, str]] = []  # reference, hypothesis, language
        by_id = {utterance.utterance_id: utterance for utterance in self.valid_batches.utterances}
        for batch in self.readable_batches():
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = self.recognizer.losses(self.recognizer.model, batch)
                transcripts = self.recognizer.decode(batch, self.decode_options)
            totals += torch.stack([losses.sum(), self.recognizer.items(batch).sum()]).double().cpu()
            for utterance_id, transcript in zip(batch.utterance_ids, transcripts, strict=True):
                utterance = by_id[utterance_id]
                heard.append((utterance.transcript, transcript.text, utterance.language))
        totals, heard = self._gather(totals, heard)
        if not heard:
            raise NOTHING_READABLE
        scores = sum((score(*row) for row in heard), Scores())
        return {
            "loss": float(totals[0] / max(1.0, float(totals[1]))),
            "wer": scores.normalized_words.rate,
            "cer": scores.normalized_characters.rate,
        }

    def readable_batches(self) -> Iterator[Batch]:
        """The validation split where the model is; files that broke are named."""
        for batch in self.valid_batches.in_order(self.args.dataloader_num_workers):
            self.failures.update({refusal.audio_path: refusal for refusal in batch.failures})
            if batch.weights.any():
                yield self._prepare_inputs(batch)

    def _gather(
        self, totals: torch.Tensor, heard: list[tuple[str, str, str]]
    ) -> tuple[torch.Tensor, list[tuple[str, str, str]]]:
        """Every rank gets the sums and hypotheses of all, so that all agree on what is best."""
        if self.args.world_size == 1:
            return totals, heard
        parts: list[Any] = [None] * self.args.world_size
        torch.distributed.all_gather_object(parts, (totals, heard))
        return sum((part[0] for part in parts), torch.zeros(2, dtype=torch.float64)), [
            row for part in parts for row in part[1]
        ]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Lower is better; among equals, which small validation splits often give, the lower loss decides.

        A new best is always saved, whatever the saving rhythm.
        """
        name = f"eval_{self.args.metric_for_best_model}"
        best = (math.inf, math.inf)
        for logged in self.state.log_history:
            if logged["step"] == self.state.best_global_step and name in logged:
                best = (logged[name], logged["eval_loss"])
        is_new_best = (metrics[name], metrics["eval_loss"]) < best
        if is_new_best:
            self.state.best_metric = metrics[name]
            self.state.best_global_step = self.state.global_step
            self.control.should_save = True
        return is_new_best

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        with merged_for_a_while(self.recognizer.model):
            metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler=skip_scheduler)
        if self.state.global_step == 0:  # the untouched start takes part in the choice of the best
            self._determine_best_metric(metrics, trial)
            self._save_checkpoint(self.model, trial)
            self.control.should_save = False
        return metrics

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(self.args.output_dir)
        target = run_folder / f"checkpoint-{self.state.global_step}"
        self._record_callbacks()
        # `best_model_checkpoint` of the state stays empty: with it the Trainer would delete, at the end of a run with
        # save_total_limit=1, every checkpoint but the best, the one to resume from among them.
        if self.args.should_save and not target.exists():
            with staged_folder(target) as staging:
                self.recognizer.save_pretrained(staging)
                save_training_state(staging, self.optimizer, self.lr_scheduler, self.accelerator.scaler)
                self.state.save_to_json(str(staging / "trainer_state.json"))
            self._link(run_folder)
            remove_old(run_folder, self.args.save_total_limit, self.state.best_global_step)
        del self.state.stateful_callbacks[UNLOGGED_LOSS]  # for whoever resumes from here; this run counts on
        self.accelerator.wait_for_everyone()

    def _link(self, run_folder: Path) -> None:
        link_atomically(run_folder / "last", f"checkpoint-{self.state.global_step}")
        if self.state.best_global_step is not None:
            link_atomically(run_folder / "best", f"checkpoint-{self.state.best_global_step}")

    def _record_callbacks(self) -> None:
        """Early stopping's patience and the loss since the last log line survive a resume."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.stateful_callbacks[UNLOGGED_LOSS] = {
            "sum": self.accelerator.reduce(self._tr_loss.clone(), reduction="mean").item(),
            "since_step": self._globalstep_last_logged,
        }

    def _load_callback_state(self) -> None:
        """Callbacks as they were; the stock method would also restore the wish to stop, and end the run at once."""
        for callback in self.callback_handler.callbacks:
            stored = self.state.stateful_callbacks.get(type(callback).__name__, {})
            for name, value in stored.get("attributes", {}).items():
                setattr(callback, name, value)
        self.state.compute_steps(self.args, self.state.max_steps)  # the configuration's rhythms, not the checkpoint's

    def _restore_unlogged_loss(self) -> None:
        stored = self.state.stateful_callbacks.pop(UNLOGGED_LOSS, None)
        if stored is not None:
            self._tr_loss += stored["sum"]
            self._total_loss_scalar -= stored["sum"]  # of steps that are not this run's
            self._globalstep_last_logged = stored["since_step"]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and step_of(Path(checkpoint)) >= 0:
            load_training_state(Path(checkpoint), self.optimizer, self.lr_scheduler, self.accelerator.scaler)
            if self.args.should_save:  # a kill between a checkpoint and its links
                self._link(Path(checkpoint).parent)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Loaded with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Every step is seeded on its own."""
