"""Which utterances of a split a model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.samples import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from myna.feed.batches import Processor
    from myna.samples import Utterance

ROUNDING_SECONDS = 1e-3  # of lengths that are given in hundredths


def usable(utterances: Iterable[Utterance], processor: Processor) -> tuple[list[Utterance], list[Refusal]]:
    """Part what the model can learn from and what it cannot, each with its reason."""
    kept, refused = [], []
    for utterance in utterances:
        refusal = processor.refusal(utterance)
        if refusal is None:
            kept.append(utterance)
        else:
            refused.append(Refusal(utterance.audio_path, utterance.transcript, *refusal))
    return kept, refused


def short_enough(utterances: Iterable[Utterance], max_duration_seconds: float) -> tuple[list[Utterance], list[Refusal]]:
    """Part what is short enough to train on and what is not."""
    kept, refused = [], []
    for utterance in utterances:
        if utterance.duration_seconds <= max_duration_seconds + ROUNDING_SECONDS:
            kept.append(utterance)
        else:
            detail = (
                f"expected at most {max_duration_seconds:g} s to train on; received {utterance.duration_seconds:.2f}"
            )
            refused.append(Refusal(utterance.audio_path, utterance.transcript, RefusalReason.TOO_LONG, detail))
    return kept, refused
