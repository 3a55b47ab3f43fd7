"""Self-supervised pre-training: what it draws at each step, and what it is validated by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from myna.models.contrastive import MaskedTally
from myna.train.trainer import NOTHING_READABLE, SpeechTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from myna.models.pretrain_recognizer import PretrainRecognizer
    from myna.samples import Batch


class PretrainTrainer(SpeechTrainer):
    """Trains an encoder in pre-training. Masked accuracy and codebook perplexity are logged with each loss.

    In training they are those of the last step, on the first rank; in validation, of the whole split.
    """

    recognizer: PretrainRecognizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """One optimizer step's micro-batches; the masks that they are counted by come from the step's number."""
        self.recognizer.begin_step(self.args.seed, self.state.global_step, self.state.max_steps)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        """Log, and with each training loss what came of the masked frames."""
        if "loss" in logs:
            logs = logs | self.recognizer.tally.figures()
        super().log(logs, *rest, **named)

    def validate(self) -> dict[str, float]:
        """Loss of a masked frame, and what came of all of them, without noise and with the same masks each time."""
        self.recognizer.begin_validation()
        loss = torch.zeros((), dtype=torch.float64)
        for batch in self.readable_batches():
            with torch.no_grad(), self.compute_loss_context_manager():
                loss += self.recognizer.losses(self.recognizer.model, batch).sum().double().cpu()
        tally = self.recognizer.tally
        if self.args.world_size > 1:  # every rank gets the sums of all, so that all agree on what is best
            parts: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(parts, (loss, tally))
            loss = sum((part[0] for part in parts), torch.zeros((), dtype=torch.float64))
            tally = sum((part[1] for part in parts), MaskedTally())
        if not int(tally.masked):
            raise NOTHING_READABLE
        return {"loss": float(loss) / int(tally.masked), **tally.figures()}
