"""Run folders with an evaluation, as training and scoring leave them, without a model: what was heard is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from myna.evaluate.errors import Slices, WorstUtterances
from myna.evaluate.hypotheses import Hypothesis, writing
from myna.evaluate.run import SCORES_FILE, EvaluationReport, hypotheses_path
from myna.metrics import ScoreAccumulator
from myna.samples import Utterance


def utterance(number: int, transcript: str, audio_path: str = "gone.wav", **changes: object) -> Utterance:
    values = {
        "utterance_id": f"id{number}",
        "audio_path": audio_path,
        "transcript": transcript,
        "text": transcript.lower(),
        "duration_seconds": 1.0 + number % 7,
        "split": "test",
        "speaker_id": f"speaker{number % 6}",
        "language": "en",
    }
    return Utterance(**{**values, **changes})


def write_scores(path: Path, heard: Sequence[tuple[Utterance, str]]) -> EvaluationReport:
    """scores.json, or by another name, and its hypotheses, as `myna evaluate` writes them."""
    accumulator, slices, worst = ScoreAccumulator(), Slices(), WorstUtterances()
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(hypotheses_path(path)) as hypotheses:
        for said, hypothesis in heard:
            scores = accumulator.add(said.transcript, hypothesis, said.language)
            slices.add(said, scores)
            worst.add(said, hypothesis, scores)
            hypotheses.add(Hypothesis.of(said, hypothesis, scores))
    report = EvaluationReport(
        model=str(path.parent),
        trained_on="0123456789abcdef",
        evaluated_on="0123456789abcdef",
        split="test",
        options={"language": ""},
        scores=accumulator.summary(),
        wer_interval=hypotheses.word_interval(),
        cer_interval=hypotheses.character_interval(),
        slices=slices.as_dict(),
        worst=tuple(worst.as_list()),
        audio_seconds=sum(said.duration_seconds for said, _ in heard),
        decoding_seconds=1.0,
        total_seconds=2.0,
        seen_in_training=0,
        refused=(),
        scores_path=str(path),
    )
    path.write_text(json.dumps(report.as_dict(), ensure_ascii=False))
    return report


def write_run(folder: Path, heard: Sequence[tuple[Utterance, str]] = (), **config: dict[str, object]) -> Path:
    """A run folder of the first minutes of a run, scored where something was heard."""
    folder.mkdir(parents=True)
    settings = {"model": {"family": "conformer"}, "training": {"seed": 0}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    (folder / "dataset.json").write_text(json.dumps({"dataset_version": "0123456789abcdef", "refused": []}))
    lines = [{"step": step, "loss": 100.0 / step, "feed_wait_share": 0.1} for step in range(1, 20)]
    lines += [{"step": step, "eval_loss": 9.0, "eval_wer": 1 / step, "eval_cer": 0.5 / step} for step in (5, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if heard:
        write_scores(folder / SCORES_FILE, heard)
    return folder
