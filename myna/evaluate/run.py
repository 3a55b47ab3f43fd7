"""`myna evaluate`: a model and a split of a dataset version in, scores.json and hypotheses.jsonl out.

Hypotheses come from free-running decoding alone: the recogniser never sees a transcript.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.data.catalog import Catalog
from myna.errors import DataError, VersionError
from myna.evaluate.errors import Slices, WorstUtterances
from myna.evaluate.hypotheses import HYPOTHESES_FILE, Hypotheses, Hypothesis, writing
from myna.files import write_atomically
from myna.metrics import ScoreAccumulator
from myna.samples import Refusal, RefusalReason, Utterance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from myna.intervals import Interval
    from myna.models.recognizer import DecodeOptions, Recognizer
    from myna.samples import Batch, Transcript

BATCH_SECONDS = 120.0  # padded audio in one forward pass
SCORES_FILE = "scores.json"
NOT_SCORED = (RefusalReason.TOO_LONG, RefusalReason.BAD_ROW, RefusalReason.EMPTY_TRANSCRIPT)


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Scores of a model on a split, and what they are bound to."""

    model: str
    trained_on: str  # dataset version ID, "" when the model does not say
    evaluated_on: str  # dataset version ID
    split: str
    options: dict[str, Any]  # of decoding
    scores: dict[str, Any]  # ScoreAccumulator.summary()
    wer_interval: Interval  # of normalised text, 95 %
    cer_interval: Interval
    slices: dict[str, dict[str, dict[str, Any]]]  # Slices.as_dict()
    worst: tuple[dict[str, Any], ...]  # WorstUtterances.as_list()
    audio_seconds: float
    decoding_seconds: float  # of the model and the search alone
    total_seconds: float  # with reading audio and scoring, without loading the model
    seen_in_training: int  # utterances that the model was trained on too
    refused: tuple[Refusal, ...]  # files that broke since preparation, clips beyond the model's limit
    scores_path: str = ""  # "" when nothing was written

    @property
    def wer(self) -> float:
        """Word error rate, normalised; a share of 1."""
        return float(self.scores["normalized"]["wer"])

    @property
    def cer(self) -> float:
        """Character error rate, normalised; a share of 1."""
        return float(self.scores["normalized"]["cer"])

    @property
    def real_time_factor(self) -> float:
        """Decoding seconds per second of audio."""
        return self.decoding_seconds / self.audio_seconds if self.audio_seconds else 0.0

    @property
    def total_real_time_factor(self) -> float:
        """Seconds per second of audio, all work included."""
        return self.total_seconds / self.audio_seconds if self.audio_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what scores.json holds."""
        return asdict(self) | {
            "real_time_factor": self.real_time_factor,
            "total_real_time_factor": self.total_real_time_factor,
        }


def evaluate(
    model: str | Path,
    db: str | Path,
    *,
    version: str = "",
    split: str = "test",
    options: DecodeOptions | None = None,
    batch_seconds: float = BATCH_SECONDS,
    output: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Decode a split and score it.

    Args:
        model: a run, checkpoint, local model folder or hub name.
        db: catalog.
        version: dataset version ID or its beginning; "" is the newest, unless the model was trained on another.
        split: train, valid or test.
        options: of decoding; greedy by default.
        batch_seconds: padded audio per forward pass.
        output: file or folder for scores.json; None puts it into the folder of a model that Myna trained.
        progress: called with (utterances done, utterances in all).

    Raises:
        VersionError: no such version, or it was not asked for and the model was trained on another one.
        DataError: the split has no utterance that the model can take.
        ModelError: the model cannot be loaded.
    """
    from myna.models.build import load_recognizer
    from myna.models.recognizer import DecodeOptions

    recognizer = load_recognizer(model)
    trained_on = recognizer.metadata.get("dataset_version", "")
    with Catalog(db) as catalog:
        version_id = _bound_version(catalog, version, trained_on)
        utterances = list(catalog.utterances(version_id, split))
        splits = recognizer.metadata.get("training_splits", "train").split()
        seen = _seen_in_training(catalog, utterances, trained_on, splits)
    options = options or DecodeOptions()
    utterances, refused = _within_limits(utterances, recognizer, options.language)
    if not utterances:
        why = f"; {len(refused)} refused, the first with: {refused[0].detail}" if refused else ""
        raise DataError(
            f"{db}: expected utterances in split {split} of version {version_id}; received none{why}",
            "See the splits with myna stats, and name the language with --language where a model needs it.",
        )
    path = _scores_path(output, model, trained_on)
    with writing(path and hypotheses_path(path)) as hypotheses:
        evaluation = _Evaluation(recognizer, options, batch_seconds, hypotheses)
        evaluation.run(utterances, progress)
    report = EvaluationReport(
        model=str(model),
        trained_on=trained_on,
        evaluated_on=version_id,
        split=split,
        options=asdict(options),
        scores=evaluation.scores.summary(),
        wer_interval=hypotheses.word_interval(),
        cer_interval=hypotheses.character_interval(),
        slices=evaluation.slices.as_dict(),
        worst=tuple(evaluation.worst.as_list()),
        audio_seconds=evaluation.audio_seconds,
        decoding_seconds=evaluation.decoding_seconds,
        total_seconds=evaluation.total_seconds,
        seen_in_training=seen,
        refused=(*refused, *evaluation.broken),
        scores_path="" if path is None else str(path),
    )
    if path is not None:
        write_atomically(path, json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
    return report


class _Evaluation:
    """One pass over a split, with everything that is summed on the way."""

    def __init__(
        self, recognizer: Recognizer, options: DecodeOptions, batch_seconds: float, hypotheses: Hypotheses
    ) -> None:
        from myna.models.memory_limit import MemoryLimit

        self.recognizer = recognizer
        self.options = options
        self.batch_seconds = batch_seconds
        self.hypotheses = hypotheses
        self.scores = ScoreAccumulator()
        self.slices = Slices()
        self.worst = WorstUtterances()
        self.broken: list[Refusal] = []
        self.limit = MemoryLimit()
        self.audio_seconds = self.decoding_seconds = self.total_seconds = 0.0

    def run(self, utterances: Sequence[Utterance], progress: Callable[[int, int], None] | None) -> None:
        import torch

        from myna.feed.evaluation import EvaluationBatches

        on_gpu = torch.cuda.is_available()
        self.recognizer.model.to("cuda" if on_gpu else "cpu")
        wanted = self.options.language  # labels are made too, and Whisper's name the language
        spoken = [replace(utterance, language=wanted or utterance.language) for utterance in utterances]
        batches = EvaluationBatches(spoken, self.recognizer.processor, self.batch_seconds)
        # On a CPU, loader processes would only take cores away from the model.
        num_workers = min(4, os.cpu_count() or 1) if on_gpu else 0
        by_id = {utterance.utterance_id: utterance for utterance in utterances}
        done, start = 0, time.perf_counter()
        for batch in batches.in_order(num_workers):
            self.broken.extend(batch.failures)
            done += len(batch.failures)
            if batch.weights.any():
                began = time.perf_counter()
                transcripts = self._decode(batch, by_id)
                self.decoding_seconds += time.perf_counter() - began
                self.audio_seconds += batch.audio_seconds
                for utterance_id, transcript in zip(batch.utterance_ids, transcripts, strict=True):
                    self._score(by_id[utterance_id], transcript.text)
                done += len(transcripts)
            if progress is not None:
                progress(done, len(utterances))
        self.total_seconds = time.perf_counter() - start

    def _decode(self, batch: Batch, by_id: Mapping[str, Utterance]) -> list[Transcript]:
        """One transcript for each row; where memory runs out, in pieces."""
        from myna.models.memory_limit import each_piece

        decode, options = self.recognizer.decode, self.options
        pieces = each_piece(
            batch, lambda rows: decode(rows, options), self.limit, name_of=lambda name: by_id[name].audio_path
        )
        return [transcript for _, transcripts in pieces for transcript in transcripts]

    def _score(self, utterance: Utterance, hypothesis: str) -> None:
        scores = self.scores.add(utterance.transcript, hypothesis, utterance.language or self.options.language)
        self.slices.add(utterance, scores)
        self.worst.add(utterance, hypothesis, scores)
        self.hypotheses.add(Hypothesis.of(utterance, hypothesis, scores))


def _bound_version(catalog: Catalog, asked: str, trained_on: str) -> str:
    """The version to score on; one that differs from the model's must be asked for."""
    version_id = catalog.version(asked).version_id
    known = {version.version_id for version in catalog.versions()}
    if not asked and trained_on in known - {version_id}:
        raise VersionError(
            f"the model was trained on dataset version {trained_on}; received the catalog's newest, {version_id}, "
            "whose test split may hold utterances that the model was trained on",
            f"Score it on its own data with --version {trained_on}, or ask for --version {version_id} all the same.",
        )
    return version_id


def _seen_in_training(catalog: Catalog, utterances: Sequence[Utterance], trained_on: str, splits: Sequence[str]) -> int:
    if trained_on not in {version.version_id for version in catalog.versions()}:
        return 0
    trained = {utterance.utterance_id for split in splits for utterance in catalog.utterances(trained_on, split)}
    return sum(utterance.utterance_id in trained for utterance in utterances)


def _within_limits(
    utterances: Sequence[Utterance], recognizer: Recognizer, language: str
) -> tuple[list[Utterance], list[Refusal]]:
    """Part off what the model cannot hear and what has no reference; labels it could only not learn do not matter."""
    taken, refused = [], []
    for utterance in utterances:
        refusal = recognizer.processor.refusal(replace(utterance, language=language or utterance.language))
        if refusal is not None and refusal[0] in NOT_SCORED:
            refused.append(Refusal(utterance.audio_path, utterance.transcript, *refusal))
        else:
            taken.append(utterance)
    return taken, refused


def _scores_path(output: str | Path | None, model: str | Path, trained_on: str) -> Path | None:
    if output is None:
        return Path(model) / SCORES_FILE if trained_on and Path(model).is_dir() else None
    return Path(output) if Path(output).suffix == ".json" else Path(output) / SCORES_FILE


def hypotheses_path(scores_path: Path) -> Path:
    """Beside the scores; of scores by another name, by that name, so that models may share a folder."""
    if scores_path.name == SCORES_FILE:
        return scores_path.with_name(HYPOTHESES_FILE)
    return scores_path.with_name(f"{scores_path.stem}.{HYPOTHESES_FILE}")
