"""The demo end to end, on a corpus small enough to be done in seconds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from myna.config import load_config
from myna.demo.corpus import Recipe
from myna.demo.run import DemoReport, Example, run_demo
from myna.errors import DataError

TINY = Recipe(train_clips=12, valid_clips=3, test_clips=6)
ONE_EPOCH = ("training.num_train_epochs=1", "model.num_encoder_layers=1", "training.dataloader_num_workers=0")


@pytest.mark.slow
def test_from_nothing_and_once_more(tmp_path: Path) -> None:
    shown = io.StringIO()
    first = run_demo(tmp_path, recipe=TINY, overrides=ONE_EPOCH, console=Console(file=shown))
    assert first.clips == {"train": 12, "valid": 3, "test": 6}
    assert len(first.examples) == 3
    assert len({Path(example.audio_path).name for example in first.examples}) == 3
    assert json.loads(first.scores_path.read_text())["scores"]["normalized"]["cer"] == first.cer
    assert "21 clips" in shown.getvalue()
    assert "set aside" not in shown.getvalue()
    second = run_demo(tmp_path, recipe=TINY, overrides=ONE_EPOCH, console=Console(file=shown))
    assert "of an earlier demo" in shown.getvalue()
    assert replace(second, seconds=first.seconds) == first


def test_a_run_that_is_none_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("keep me")
    with pytest.raises(DataError, match="it is none"):
        run_demo(tmp_path, recipe=TINY)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "keep me"
    assert not (tmp_path / "corpus").exists()


def test_the_report_says_it_all() -> None:
    report = DemoReport(
        folder=Path("demo"),
        clips={"train": 1_560, "valid": 60, "test": 120},
        hours=0.987,
        speakers=35,
        dataset_version="0123456789abcdef",
        run_folder=Path("demo/run"),
        scores_path=Path("demo/scores.json"),
        wer=0.0523,
        cer=0.0161,
        seconds=150.0,
        examples=(Example("a.flac", "xin chào", "xin chao"),),
    )
    text = report.as_text()
    for part in ("reference   xin chào", "hypothesis  xin chao", "WER 5.2%, CER 1.6% on 120", "2.5 minutes"):
        assert part in text
    for part in (
        "1,740 clips, 0.99 hours, 35 voices",
        "0123456789abcdef",
        "myna transcribe demo/run FILE",
        "own recordings",
    ):
        assert part in text
    json.dumps(report.as_dict(), default=str)


def test_the_preset_is_a_small_conformer() -> None:
    config = load_config(["demo"])
    assert (config.model.family, config.model.d_model, config.data.language) == ("conformer", 144, "vi")


def test_the_preset_is_found_beside_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo writes into ./demo by default, and loads its preset once that folder is there."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config(["demo"]).model.d_model == 144
