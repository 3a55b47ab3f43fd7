"""`transformers.Trainer` with our feed, our loss weighting, free-running validation and whole checkpoints."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PrinterCallback, Trainer
from transformers.trainer_callback import ExportableState
from transformers.utils import logging as transformers_logging

from myna.errors import ModelError, TrainingError
from myna.files import link_atomically, staged_folder
from myna.models.adapters import merged_for_a_while
from myna.models.memory_limit import DEFAULT_RETRIES, MemoryLimit, each_piece
from myna.train.checkpoint import load_training_state, remove_old, save_training_state, step_of
from myna.train.loader import EpochNumbers, FeedMeter, Taken, training_loader
from myna.train.parameter_groups import parameter_groups
from myna.train.ranks import Agreement, gathered_if_well, mean_gradients, share_first_rank
from myna.train.recovery import StepRecovery, retry_steps
from myna.train.schedule import one_cycle
from myna.train.validation import best_so_far, figures_of, hear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    from myna.train.teacher import Distillation

T = TypeVar("T")

UNLOGGED_LOSS = "unlogged_loss"  # where the trainer's state keeps the loss that no log line holds yet
MEMORY_LIMITS = "memory_limits"  # likewise what was learned about batches that fit


class SpeechTrainer(Trainer):  # type: ignore[misc]
    """Trains a recogniser on planned batches.

    Args:
        recognizer: what to train.
        feed: where batches come from; the caller closes it.
        per_epoch: micro-batches of an epoch, all ranks together.
        valid_batches: of this rank; may be empty.
        decode_options: how validation hypotheses are searched for.
        one_cycle_schedule: use the one-cycle schedule instead of the arguments' own.
        limit: what is known about micro-batches that fit, to be added to.
        max_retries: how often the same rows may run out of memory.
        name_of: an utterance's ID as people know it.
        learning_rates: of parts of the model that learn at another rate than the arguments say.
        distillation: gives training losses in the place of the recogniser, whose own validation keeps to.
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
        limit: MemoryLimit | None = None,
        max_retries: int = DEFAULT_RETRIES,
        name_of: Callable[[str], str] = str,
        learning_rates: Mapping[str, float] | None = None,
        distillation: Distillation | None = None,
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
        self.training_losses = (distillation or recognizer).losses
        self.failures: dict[str, Refusal] = {}  # files that broke during the run, by path
        # Our loss is already a mean over the whole step: without this the Trainer would scale it once more.
        self.model_accepts_loss_kwargs = True
        forget_gradients = partial(recognizer.model.zero_grad, set_to_none=True)
        self.name_of, self.max_retries = name_of, max_retries
        self.limit = limit or MemoryLimit()
        self.recovery = StepRecovery(self.limit, args.seed, max_retries, forget_gradients, name_of)
        self.agreement = Agreement(self.limit, args.world_size, args.device)
        self.valid_limit = MemoryLimit()  # decoding has needs of its own
        self._micro_batches_done = 0  # of the step, on this rank
        self._loss_before_step = torch.zeros(())

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
        """One optimizer step's micro-batches, and what its loss is a mean over."""
        self.recovery.begin_step(self.state.global_step)
        self._micro_batches_done = 0
        self._loss_before_step = self._tr_loss.clone()
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

        Gradients are averaged over ranks while the mean is over the whole step, hence the world size.
        """
        losses = self.training_losses(model, inputs)  # (B,)
        share: torch.Tensor = (inputs.weights * losses).sum() * self.args.world_size / num_items_in_batch
        return share

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A micro-batch's gradient, whole or in pieces; after the step's last one, the mean over ranks.

        Raises:
            TrainingError: it does not fit into memory on some rank; a checkpoint of the step before is left.
        """

        def forward(piece: Batch) -> torch.Tensor:
            with self.compute_loss_context_manager():
                return self.compute_loss(model, self._prepare_inputs(piece), num_items_in_batch=num_items_in_batch)

        model.train()
        part = self._micro_batches_done * self.args.world_size + self.args.process_index
        self._micro_batches_done += 1
        error, loss = None, torch.zeros((), device=self.args.device)
        try:
            loss = self.recovery.train(inputs, part, forward, self.accelerator.backward)
        except TrainingError as failure:
            error = failure
        if error is not None or self.accelerator.sync_gradients:
            self.meet_ranks(error)
        return loss

    def meet_ranks(self, error: TrainingError | None) -> None:
        """Go on with the mean of all ranks' gradients; or, where one of them cannot, raise its error on all."""
        try:
            self.agreement.reach(error)
        except TrainingError:
            self.recognizer.model.zero_grad(set_to_none=True)
            self._tr_loss = self._loss_before_step
            self._save_checkpoint(self.model, None)
            raise
        if self.args.world_size > 1:
            mean_gradients(self.recognizer.model.parameters(), self.args.world_size)

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
        """Loss, and WER and CER of free-running decoding, over the whole validation split."""
        started = time.perf_counter()
        metrics = self.validate(metric_key_prefix)
        metrics[f"{metric_key_prefix}_seconds"] = round(time.perf_counter() - started, 3)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validate(self, prefix: str) -> dict[str, float]:
        """Loss, and WER and CER of free-running decoding, each named with the prefix."""
        totals = torch.zeros(2, dtype=torch.float64)  # loss, items
        heard: list[tuple[str, str, str]] = []  # reference, hypothesis, language
        error: ModelError | None = None
        by_id = {utterance.utterance_id: utterance for utterance in self.valid_batches.utterances}
        try:
            for _, (sums, said) in self.in_pieces(partial(hear, self.recognizer, self.decode_options, by_id)):
                totals += sums
                heard += said
        except ModelError as failure:  # the other ranks must hear of it
            error = failure
        # Every rank gets the sums and hypotheses of all, so that all agree on what is best.
        parts = gathered_if_well((totals, heard), error, self.args.world_size)
        totals = sum((sums for sums, _ in parts), torch.zeros(2, dtype=torch.float64))
        return figures_of(totals, [row for _, rows in parts for row in rows], prefix)

    def in_pieces(self, run: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        """Rows of all validation batches, as whole as memory allows, and what `run` gives for them on the device."""
        self.recognizer.model.eval()

        def once(rows: Batch) -> T:
            with torch.no_grad(), self.compute_loss_context_manager():
                return run(self._prepare_inputs(rows))

        for batch in self.valid_batches.in_order(self.args.dataloader_num_workers):
            self.failures.update({refusal.audio_path: refusal for refusal in batch.failures})
            if batch.weights.any():
                yield from each_piece(batch, once, self.valid_limit, max_retries=self.max_retries, name_of=self.name_of)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Lower is better; among equals, which small validation splits often give, the lower loss decides.

        A new best is always saved, whatever the saving rhythm.
        """
        name = f"eval_{self.args.metric_for_best_model}"
        is_new_best = (metrics[name], metrics["eval_loss"]) < best_so_far(self.state, name)
        if is_new_best:
            self.state.best_metric = metrics[name]
            self.state.best_global_step = self.state.global_step
            self.control.should_save = True
        return is_new_best

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        try:
            with merged_for_a_while(self.recognizer.model):
                metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except ModelError:  # a clip that does not fit: what was learned is kept
            self._save_checkpoint(self.model, trial)
            raise
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
        recognizer, optimizer_state = self.whole()
        if self.args.should_save and not target.exists():
            with staged_folder(target) as staging:
                recognizer.save_pretrained(staging)
                save_training_state(staging, optimizer_state, self.lr_scheduler, self.accelerator.scaler)
                self.state.save_to_json(str(staging / "trainer_state.json"))
            self._link(run_folder)
            remove_old(run_folder, self.args.save_total_limit, self.state.best_global_step)
        del self.state.stateful_callbacks[UNLOGGED_LOSS]  # for whoever resumes from here; this run counts on
        self.accelerator.wait_for_everyone()

    def whole(self) -> tuple[Recognizer, dict[str, Any]]:
        """What a checkpoint holds: the recogniser and the optimizer's state; to be called by all ranks."""
        return self.recognizer, self.optimizer.state_dict()

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
        limits = {"training": self.limit.state(), "validation": self.valid_limit.state()}
        self.state.stateful_callbacks[MEMORY_LIMITS] = limits

    def _load_callback_state(self) -> None:
        """Callbacks as they were; the stock method would also restore the wish to stop, and end the run at once."""
        for callback in self.callback_handler.callbacks:
            stored = self.state.stateful_callbacks.get(type(callback).__name__, {})
            for name, value in stored.get("attributes", {}).items():
                setattr(callback, name, value)
        for name, limit in (("training", self.limit), ("validation", self.valid_limit)):
            if MEMORY_LIMITS in self.state.stateful_callbacks:  # not in a checkpoint of an earlier version
                limit.load(self.state.stateful_callbacks[MEMORY_LIMITS][name])
        self.agreement = Agreement(self.limit, self.args.world_size, self.args.device)
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

    def _prepare_for_training(self, *given: Any, **named: Any) -> Any:
        """As ever, but without DDP, whose part `ranks` has, and with an optimizer whose steps can begin anew."""
        accelerator: Any = self.accelerator
        accelerator.prepare_model = partial(type(accelerator).prepare_model, accelerator, evaluation_mode=True)
        self.begin_alike()
        prepared = super()._prepare_for_training(*given, **named)
        retry_steps(self.optimizer, self.max_retries, lambda error: self.agreement.reach(error))
        return prepared

    def begin_alike(self) -> None:
        """Let all ranks begin with what the first has."""
        if self.args.world_size > 1:
            share_first_rank(self.recognizer.model.parameters())

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Loaded with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Every step is seeded on its own."""
