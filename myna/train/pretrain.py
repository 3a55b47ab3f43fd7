"""Self-supervised pre-training: what it draws at each step, and what it is validated by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from myna.errors import ModelError
from myna.models.contrastive import MaskedTally
from myna.train.ranks import gathered_if_well
from myna.train.trainer import SpeechTrainer
from myna.train.validation import nothing_readable

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

    def validate(self, prefix: str) -> dict[str, float]:
        """Loss of a masked frame, and what came of all of them, without noise and with the same masks each time."""
        self.recognizer.begin_validation()
        loss = torch.zeros((), dtype=torch.float64)
        error: ModelError | None = None
        try:
            for _, losses in self.in_pieces(lambda rows: self.recognizer.losses(self.recognizer.model, rows)):
                loss += losses.sum().double().cpu()
        except ModelError as failure:  # the other ranks must hear of it
            error = failure
        parts = gathered_if_well((loss, self.recognizer.tally), error, self.args.world_size)
        loss, tally = sum((part[0] for part in parts), torch.zeros(())), sum((part[1] for part in parts), MaskedTally())
        if not int(tally.masked):
            raise nothing_readable()
        figures = {"loss": float(loss) / int(tally.masked), **tally.figures()}
        return {f"{prefix}_{name}": value for name, value in figures.items()}
