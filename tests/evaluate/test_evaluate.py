from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import jiwer
import pytest
import torch
from rich.console import Console

from myna.audio.features import LogMel
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.errors import DataError, VersionError
from myna.evaluate.hypotheses import read_hypotheses
from myna.evaluate.run import EvaluationReport, evaluate
from myna.evaluate.summary import render
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.samples import RefusalReason
from myna.text import normalize
from myna.transcribe.transcriber import Transcriber


def save_model(folder: Path, dataset_version: str = "") -> Path:
    """An untrained model: it babbles, but always the same for the same audio."""
    processor = CTCProcessor(TextTokenizer.train(["ab cd", "d c b a"]), LogMel(n_mels=20))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = TransformerConfig(
            vocab_size=processor.tokenizer.vocab_size,
            n_mels=20,
            d_model=16,
            num_encoder_layers=1,
            num_heads=2,
            d_ff=16,
        )
        model = TransformerForCTC(config)
    with torch.no_grad():
        model.head.weight.mul_(20)
    folder.mkdir()
    metadata = {"family": "transformer", "language": "en"} | (
        {"dataset_version": dataset_version} if dataset_version else {}
    )
    CTCRecognizer(processor, model, metadata).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def report(model: Path, tone_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    return evaluate(model, tone_catalog, output=tmp_path_factory.mktemp("scores"))


def copied_corpus(corpus: Path, folder: Path, *, without_last_rows: int = 0) -> Path:
    shutil.copytree(corpus, folder)
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows[: len(rows) - without_last_rows])
    return folder


def test_scores_are_those_of_free_running_decoding(report: EvaluationReport, model: Path, tone_catalog: Path) -> None:
    with Catalog(tone_catalog) as catalog:
        utterances = list(catalog.utterances(split="test"))
    transcriber = Transcriber(model, timestamps=False, device="cpu")
    heard = [transcriber.transcribe(utterance.audio_path).text for utterance in utterances]
    references = [utterance.text for utterance in utterances]
    hypotheses = [normalize(text, "en") for text in heard]
    assert len(set(hypotheses)) > 5
    normalized = report.scores["normalized"]
    assert normalized["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    assert normalized["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert report.scores["utterances"] == len(utterances)
    assert sum(normalized["words"]["shares"].values()) == pytest.approx(1.0)
    assert report.audio_seconds == pytest.approx(sum(u.duration_seconds for u in utterances), rel=1e-3)


def test_scores_file_names_what_it_is_bound_to(report: EvaluationReport, model: Path) -> None:
    written = json.loads(Path(report.scores_path).read_text())
    assert written == json.loads(json.dumps(report.as_dict()))
    assert written["model"] == str(model)
    assert (written["trained_on"], written["split"]) == ("", "test")
    assert len(written["evaluated_on"]) == 16
    assert written["options"]["beam_width"] == 1
    assert set(written["scores"]) == {"utterances", "raw", "normalized", "confusions"}
    assert written["real_time_factor"] == pytest.approx(written["decoding_seconds"] / written["audio_seconds"])
    assert 0 < written["real_time_factor"] < written["total_real_time_factor"]
    assert {path.name for path in Path(report.scores_path).parent.iterdir()} == {"scores.json", "hypotheses.jsonl"}


def test_hypotheses_add_up_to_the_scores_and_the_interval_holds_them(report: EvaluationReport) -> None:
    lines = list(read_hypotheses(Path(report.scores_path).parent))
    words = report.scores["normalized"]["words"]
    assert len(lines) == report.scores["utterances"]
    assert sum(line.words for line in lines) == words["reference"]
    assert sum(line.word_errors for line in lines) / words["reference"] == report.wer
    assert report.wer_interval.low <= report.wer <= report.wer_interval.high


def test_slices_and_worst_utterances_are_there(report: EvaluationReport) -> None:
    assert list(report.slices["speaker"]) == ["dot"]
    assert list(report.slices["language"]) == ["en"]
    assert sum(row["utterances"] for row in report.slices["duration"].values()) == report.scores["utterances"]
    rates = [row["wer"] for row in report.worst]
    assert rates == sorted(rates, reverse=True)
    assert 0 < len(rates) <= 50


def test_summary_shows_the_figures(report: EvaluationReport) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(report))
    shown = console.file.getvalue()
    assert f"{100 * report.scores['normalized']['wer']:.2f}" in shown
    assert f"{100 * report.scores['raw']['cer']:.2f}" in shown
    for expected in ("real-time factor", report.evaluated_on, "substitutions", "By duration", report.scores_path):
        assert expected in shown


def test_only_a_trained_model_gets_the_scores_by_default(tone_catalog: Path, model: Path, tmp_path: Path) -> None:
    assert evaluate(model, tone_catalog, split="valid").scores_path == ""
    with Catalog(tone_catalog) as catalog:
        version = catalog.version().version_id
    trained = save_model(tmp_path / "trained", version)
    report = evaluate(trained, tone_catalog, split="valid")
    assert report.scores_path == str(trained / "scores.json")
    assert (report.trained_on, report.evaluated_on, report.seen_in_training) == (version, version, 0)


def test_progress_reaches_the_end(model: Path, tone_catalog: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = evaluate(model, tone_catalog, split="valid", batch_seconds=10.0, progress=lambda *c: calls.append(c))
    assert calls[-1] == (report.scores["utterances"],) * 2
    assert len(calls) > 2


def test_another_version_of_the_same_catalog_must_be_asked_for(tone_corpus: Path, tmp_path: Path) -> None:
    db = str(tmp_path / "catalog.db")
    old = prepare([str(copied_corpus(tone_corpus, tmp_path / "old"))], db, PrepareSettings(), workers=0).version
    smaller = copied_corpus(tone_corpus, tmp_path / "new", without_last_rows=3)
    new = prepare([str(smaller)], db, PrepareSettings(), workers=0).version
    trained = save_model(tmp_path / "trained", old)
    with pytest.raises(VersionError, match=f"trained on dataset version {old}; received .* {new}.*--version {old}"):
        evaluate(trained, db)
    assert evaluate(trained, db, version=old).evaluated_on == old
    report = evaluate(trained, db, version=new[:8], split="train")
    assert (report.trained_on, report.evaluated_on) == (old, new)
    assert report.seen_in_training == report.scores["utterances"]
    console = Console(file=io.StringIO(), width=200)
    console.print(render(report))
    assert f"{report.seen_in_training} of these utterances were in the model's training data" in console.file.getvalue()


def test_another_catalog_needs_no_asking(tone_catalog: Path, tmp_path: Path) -> None:
    trained = save_model(tmp_path / "trained", "0123456789abcdef")
    report = evaluate(trained, tone_catalog, split="valid", output=tmp_path / "x.json")
    assert report.trained_on == "0123456789abcdef"
    assert (tmp_path / "x.json").is_file()


def test_files_that_broke_are_named_and_the_rest_is_scored(model: Path, tone_corpus: Path, tmp_path: Path) -> None:
    corpus, db = copied_corpus(tone_corpus, tmp_path / "corpus"), str(tmp_path / "catalog.db")
    prepare([str(corpus)], db, PrepareSettings(), workers=0)
    (corpus / "clips/dot_3.wav").unlink()
    (corpus / "clips/dot_7.wav").write_bytes(b"no audio any more")
    report = evaluate(model, db)
    assert {(Path(r.audio_path).name, r.reason) for r in report.refused} == {
        ("dot_3.wav", RefusalReason.MISSING_FILE),
        ("dot_7.wav", RefusalReason.UNREADABLE),
    }
    assert report.scores["utterances"] == 30


def test_empty_split_and_unknown_version_are_refused(model: Path, tone_corpus: Path, tmp_path: Path) -> None:
    db = str(tmp_path / "catalog.db")
    corpus = copied_corpus(tone_corpus, tmp_path / "corpus", without_last_rows=32)  # all of the test split
    prepare([str(corpus)], db, PrepareSettings(), workers=0)
    with pytest.raises(DataError, match="expected utterances in split test"):
        evaluate(model, db)
    with pytest.raises(VersionError, match="expected a dataset version"):
        evaluate(model, db, version="f" * 16)
