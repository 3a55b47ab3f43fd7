"""A run's teacher: loaded, compared with the student, asked, and what it said kept for the next epochs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from myna.machine import usable_memory
from myna.models.build import load_recognizer
from myna.models.distillation import TOP_TOKENS, Taught, divergence, hold_in, refuse_unlike, taught_by
from myna.models.folders import find_model, teacher_identity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from myna.config import Config
    from myna.models.recognizer import Recognizer
    from myna.samples import Batch

SELF = "self"  # in the place of a teacher's name: `model.pretrained`, untouched
GIB = 1024**3
MEMORY_SHARE = 0.1  # of what is free on the machine, for what was said


def load_teacher(config: Config, student: Recognizer) -> Recognizer | None:
    """The teacher that a configuration names, ready to be asked; the student's metadata say which it is.

    Raises:
        ModelError: it is no model, or hears or speaks otherwise than the student.
    """
    name = config.distillation.teacher
    if not name:
        return None
    name = config.model.pretrained if name == SELF else name
    folder = find_model(name)
    teacher = load_recognizer(folder)
    refuse_unlike(student.processor, teacher.processor)
    teacher.model.eval().requires_grad_(False)
    student.metadata |= teacher_identity(name, folder)
    return teacher


def teacher_note(config: Config, teacher: Recognizer) -> str:
    """A line about the teacher, for people."""
    settings = config.distillation
    parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    if keeps_what_is_said(config):
        often = f"it is asked about each clip once, and what it says is kept (up to {settings.reuse_gb:g} GiB)"
    else:
        often = "it is asked in every step" + (", since augmentation changes what it hears" if config.augment else "")
    return (
        f"Teacher: {settings.teacher}, {parameters / 1e6:.1f} M parameters, alpha {settings.alpha:g}, temperature "
        f"{settings.temperature:g}; {often}."
    )


def keeps_what_is_said(config: Config) -> bool:
    """Whether a clip is the same in every epoch, so that the teacher need not hear it again."""
    return bool(config.distillation.reuse_gb) and not config.augment


class Distillation:
    """The losses of a student with a teacher.

    Where what the teacher says is kept, it hears each clip by itself: in a batch its last bits would depend on the
    other clips, and a resumed run, which has to ask again, would differ. So it does not matter what was kept.

    Args:
        student: what is trained.
        teacher: in evaluation mode and without gradients; moved to the device.
        alpha: share of the teacher in the loss.
        temperature: that both distributions are softened by.
        device: that trains.
        dtype: that it computes in: with a half precision the teacher's linear layers are held in it too.
        keep_bytes: of main memory, for what the teacher said; 0 for clips that are never the same again.
        top_tokens: as in `taught_by`.
    """

    def __init__(
        self,
        student: Recognizer,
        teacher: Recognizer,
        *,
        alpha: float,
        temperature: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        keep_bytes: int = 0,
        top_tokens: int = TOP_TOKENS,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.alpha = alpha
        self.temperature = temperature
        self.dtype = dtype
        self.keep_bytes = keep_bytes
        self.top_tokens = top_tokens
        self.kept: dict[str, Taught] = {}  # by utterance
        self.kept_bytes = 0
        hold_in(teacher.model, dtype)
        teacher.model.to(device)

    @classmethod
    def of(
        cls, config: Config, student: Recognizer, teacher: Recognizer, device: torch.device, dtype: torch.dtype
    ) -> Distillation:
        """As a configuration wants it."""
        settings = config.distillation
        return cls(
            student,
            teacher,
            alpha=settings.alpha,
            temperature=settings.temperature,
            device=device,
            dtype=dtype,
            keep_bytes=_room_to_keep(settings.reuse_gb) if keeps_what_is_said(config) else 0,
        )

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Losses (B,) float32 of each row: `(1 - alpha) * labels' + alpha * T^2 * KL`; for the student's `losses`.

        Args:
            model: the student's, perhaps compiled.
            batch: on the device.
        """
        taught = self.taught(batch)  # before the student's graph takes its memory
        logits = self.student.logits(model, batch)  # (B, T, V)
        apart = divergence(logits, taught, self.temperature)  # (B, T)
        apart = apart.masked_fill(~self.student.scored(batch), 0.0).sum(dim=1)
        labels = self.student.losses_of(logits, batch)
        return (1 - self.alpha) * labels + self.alpha * self.temperature**2 * apart

    def taught(self, batch: Batch) -> Taught:
        """What the teacher says about a batch, (B, T, K); of padding, anything."""
        if not self.keep_bytes:
            return self._ask(batch)
        real = batch.weights.tolist()  # a row of no weight stands in for an utterance that it is not
        rows = [self._row(batch, row, is_real=bool(real[row])) for row in range(len(real))]
        positions, device = self.student.scored(batch).shape[1], batch.features.device
        tokens = [row.tokens for row in rows if row.tokens is not None]
        return Taught(
            _padded([row.log_probs for row in rows], positions).to(device),
            _padded(tokens, positions).to(device) if tokens else None,
        )

    def _row(self, batch: Batch, row: int, *, is_real: bool) -> Taught:
        """What the teacher says about one clip, (T, K), in main memory."""
        utterance_id = batch.utterance_ids[row]
        if is_real and utterance_id in self.kept:
            return self.kept[utterance_id]
        said = self._ask(alone(batch, row))
        taught = Taught(said.log_probs[0].cpu(), None if said.tokens is None else said.tokens[0].cpu())
        size = sum(tensor.nbytes for tensor in taught if tensor is not None)
        if is_real and self.kept_bytes + size <= self.keep_bytes:
            self.kept[utterance_id] = taught
            self.kept_bytes += size
        return taught

    def _ask(self, batch: Batch) -> Taught:
        is_half = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(batch.features.device.type, self.dtype, enabled=is_half):
            logits = self.teacher.logits(self.teacher.model, batch)
        return taught_by(logits, self.temperature, self.top_tokens)


def _room_to_keep(reuse_gb: float) -> int:
    """Bytes for this rank, one at least: others need the machine's memory as well."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, int(min(reuse_gb * GIB, MEMORY_SHARE * usable_memory()[1]) / ranks_here))


def _padded(rows: list[Tensor], positions: int) -> Tensor:
    """(T_i, K) of each row -> (B, positions, K), zeros beyond each length."""
    together = pad_sequence(rows, batch_first=True)
    return functional.pad(together, (0, 0, 0, positions - together.shape[1]))


def alone(batch: Batch, row: int) -> Batch:
    """One row of a batch, without padding."""
    only = slice(row, row + 1)
    return replace(
        batch,
        utterance_ids=batch.utterance_ids[only],
        features=batch.features[only, : int(batch.feature_lengths[row])],
        feature_lengths=batch.feature_lengths[only],
        labels=batch.labels[only, : int(batch.label_lengths[row])],
        label_lengths=batch.label_lengths[only],
        weights=batch.weights[only],
        failures=(),
    )
