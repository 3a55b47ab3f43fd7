"""Whether a Whisper that was trained in short context may decode in it, asked of the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from myna.errors import TrainingError
from myna.feed.evaluation import EvaluationBatches
from myna.intervals import compare
from myna.metrics import score
from myna.models.audio_context import LONGEST_KEY, MARGIN_KEY, WINDOW_SECONDS, AudioContext
from myna.models.build import load_recognizer
from myna.models.memory_limit import MemoryLimit, each_piece
from myna.models.metadata import read_metadata, write_metadata
from myna.models.whisper import WhisperRecognizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.config import Config
    from myna.models.recognizer import DecodeOptions
    from myna.samples import Utterance
    from myna.train.trainer import SpeechTrainer

MOST_LOSS = 0.005  # of the error rate, in short context against full: half a point

Errors = NDArray[np.int64]  # (utterances, 2): errors, and words or characters of the reference


@dataclass(frozen=True, slots=True)
class ContextVerdict:
    """How the best checkpoint decodes from now on, and what that was decided by. Error rates are shares of 1."""

    context: AudioContext | None  # None: 30 s
    reason: str
    metric: str = ""  # wer or cer
    short_rate: float | None = None
    full_rate: float | None = None
    start_rate: float | None = None  # of the untouched start, in short context
    interval: tuple[float, float] | None = None  # 95 %, of short less full

    def __str__(self) -> str:
        heard = "the full 30 s"
        if self.context is not None:
            margin_seconds, longest_seconds = self.context
            heard = f"clips of up to {longest_seconds:g} s and {margin_seconds:g} s of silence"
        return f"Audio context: the best checkpoint hears {heard}, since {self.reason}."


def settled_context(config: Config, trainer: SpeechTrainer, train_split: Sequence[Utterance]) -> ContextVerdict:
    """Whether the best checkpoint of a run that has ended may decode in the short context that it was trained in."""
    del trainer.optimizer, trainer.lr_scheduler  # their memory is for the checkpoint now
    trainer.accelerator.free_memory()
    metric = "cer" if config.training.metric_for_best_model == "cer" else "wer"
    before = [logged for logged in trainer.state.log_history if logged["step"] == 0 and f"eval_{metric}" in logged]
    return settle_audio_context(
        Path(config.training.output_dir) / "best",
        trainer.valid_batches.utterances,
        context=AudioContext(
            config.model.audio_context_margin_seconds,
            longest_seconds=min(WINDOW_SECONDS, max(utterance.duration_seconds for utterance in train_split)),
        ),
        start_rate=before[0][f"eval_{metric}"] if before else None,
        metric=metric,
        batch_seconds=trainer.valid_batches.batch_seconds,
        options=trainer.decode_options,
    )


def settle_audio_context(
    best: Path,
    utterances: Sequence[Utterance],
    *,
    context: AudioContext,
    start_rate: float | None,
    metric: str,
    batch_seconds: float,
    options: DecodeOptions,
) -> ContextVerdict:
    """Decode a split in short and in full context, and write down in the checkpoint which of them it may use.

    Short context stays if its error rate is at most half a point above that of full context, a paired bootstrap over
    the utterances (`myna.intervals.compare`) does not find it worse, and it is not above that of the untouched start.

    Args:
        best: the checkpoint; only its metadata are changed.
        utterances: the validation split.
        context: that was trained with.
        start_rate: error rate of the untouched start in short context; None where it was not scored.
        metric: wer or cer, normalised.
        batch_seconds: padded audio of a batch.
        options: of decoding.
    """
    recognizer = load_recognizer(best)
    if not isinstance(recognizer, WhisperRecognizer):
        raise TrainingError(f"{best}: expected a Whisper; received {type(recognizer).__name__}")
    recognizer.model.to("cuda" if torch.cuda.is_available() else "cpu")
    full, short = (
        count_errors_in(recognizer, utterances, heard, metric, batch_seconds, options) for heard in (None, context)
    )
    verdict = judge(short, full, context=context, start_rate=start_rate, metric=metric)
    write_context(best, verdict.context)
    return verdict


def judge(
    short: Errors, full: Errors, *, context: AudioContext, start_rate: float | None, metric: str
) -> ContextVerdict:
    """Whether short context loses nothing, from the errors of the same utterances in both."""
    short_rate, full_rate = _rate(short), _rate(full)
    # By utterance: of a small validation split, speakers are too few to be drawn.
    difference = compare(full[:, 0], short[:, 0], full[:, 1], [""] * len(full))
    low, high = difference.interval.low, difference.interval.high
    found = f"{metric.upper()} {100 * short_rate:.2f} % in short context, {100 * full_rate:.2f} % in full"
    found += f" (difference {100 * low:+.2f} to {100 * high:+.2f} points)"
    if start_rate is not None:
        found += f", {100 * start_rate:.2f} % before training"
    is_as_good = short_rate - full_rate <= MOST_LOSS and low <= 0
    keeps = is_as_good and (start_rate is None or short_rate <= start_rate)
    return ContextVerdict(
        context=context if keeps else None,
        reason=f"validation says {found}",
        metric=metric,
        short_rate=short_rate,
        full_rate=full_rate,
        start_rate=start_rate,
        interval=(low, high),
    )


def write_context(checkpoint: Path, context: AudioContext | None) -> None:
    """Let a checkpoint decode in short context, or in full for None."""
    keys = MARGIN_KEY, LONGEST_KEY
    metadata = {key: value for key, value in read_metadata(checkpoint).items() if key not in keys}
    if context is not None:
        metadata |= dict(zip(keys, map(str, context), strict=True))
    write_metadata(checkpoint, metadata)


def count_errors_in(
    recognizer: WhisperRecognizer,
    utterances: Sequence[Utterance],
    context: AudioContext | None,
    metric: str,
    batch_seconds: float,
    options: DecodeOptions,
) -> Errors:
    """Decode a split in a context and count, of each utterance that can be read and in the order of the split.

    Args:
        recognizer: its processor is changed to the context.
        utterances: the split.
        context: None is 30 s.
        metric: wer or cer, normalised.
        batch_seconds: padded audio of a batch.
        options: of decoding.
    """
    recognizer.processor = recognizer.processor.with_context(context)
    found: dict[str, tuple[int, int]] = {}
    by_id = {utterance.utterance_id: utterance for utterance in utterances}
    limit = MemoryLimit()
    for batch in EvaluationBatches(utterances, recognizer.processor, batch_seconds).in_order(num_workers=0):
        if not batch.weights.any():
            continue
        for rows, transcripts in each_piece(batch, lambda rows: recognizer.decode(rows, options), limit):
            for utterance_id, transcript in zip(rows.utterance_ids, transcripts, strict=True):
                spoken = by_id[utterance_id]
                scores = score(spoken.transcript, transcript.text, spoken.language)
                counts = scores.normalized_characters if metric == "cer" else scores.normalized_words
                found[utterance_id] = counts.errors, counts.reference_length
    return np.array([found[utterance_id] for utterance_id in by_id if utterance_id in found], dtype=np.int64)


def _rate(errors: Errors) -> float:
    return float(errors[:, 0].sum() / max(1, errors[:, 1].sum()))
