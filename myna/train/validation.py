"""What a validation says: its figures, and the best of those before it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from myna.errors import TrainingError
from myna.metrics import Scores, score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import TrainerState

    from myna.models.recognizer import DecodeOptions, Recognizer
    from myna.samples import Batch, Utterance


def hear(
    recognizer: Recognizer, options: DecodeOptions, by_id: Mapping[str, Utterance], rows: Batch
) -> tuple[Tensor, list[tuple[str, str, str]]]:
    """What a recogniser makes of some rows.

    Returns:
        Loss and items, (2,), summed over the rows; reference, hypothesis and language of each.
    """
    losses = recognizer.losses(recognizer.model, rows)  # (B,)
    said = zip(
        (by_id[utterance_id] for utterance_id in rows.utterance_ids), recognizer.decode(rows, options), strict=True
    )
    heard = [(utterance.transcript, transcript.text, utterance.language) for utterance, transcript in said]
    return torch.stack([losses.sum(), recognizer.items(rows).sum()]).double().cpu(), heard


def figures_of(totals: Tensor, heard: Sequence[tuple[str, str, str]], prefix: str) -> dict[str, float]:
    """Loss, error rates and the share of empty hypotheses.

    Args:
        totals: loss and items, (2,), summed over the split.
        heard: reference, hypothesis and language of each utterance.
        prefix: of the names.

    Raises:
        TrainingError: nothing was heard.
    """
    if not heard:
        raise nothing_readable()
    scores = sum((score(*row) for row in heard), Scores())
    return {
        f"{prefix}_loss": float(totals[0] / max(1.0, float(totals[1]))),
        f"{prefix}_wer": scores.normalized_words.rate,
        f"{prefix}_cer": scores.normalized_characters.rate,
        f"{prefix}_empty_share": sum(not hypothesis for _, hypothesis, _ in heard) / len(heard),
    }


def nothing_readable() -> TrainingError:
    """Why a validation says nothing."""
    return TrainingError(
        "the validation split: expected recordings that can be read; received none",
        "See that they are where they were when they were prepared, then go on with --resume.",
    )


def best_so_far(state: TrainerState, name: str) -> tuple[float, float]:
    """The metric of a name, such as eval_wer, and the loss of the best validation; infinite before the first."""
    for logged in state.log_history:
        if logged["step"] == state.best_global_step and name in logged:
            return logged[name], logged["eval_loss"]
    return math.inf, math.inf
