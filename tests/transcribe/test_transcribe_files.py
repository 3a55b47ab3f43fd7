from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tones import SAMPLE_RATE_HZ, sing

from myna.audio.features import LogMel
from myna.errors import ConfigError, DataError
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.transcribe.run import transcribe_files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    processor = CTCProcessor(TextTokenizer.train(["ab cd", "d c b a"]), LogMel(n_mels=20))
    sizes = {"vocab_size": processor.tokenizer.vocab_size, "n_mels": 20, "d_model": 16, "d_ff": 16}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = TransformerForCTC(TransformerConfig(**sizes, num_encoder_layers=1, num_heads=2))
    folder = tmp_path_factory.mktemp("model")
    CTCRecognizer(processor, network, {"family": "transformer"}).save_pretrained(folder)
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, text in (("a.wav", "ab cd"), ("deep/b c.flac", "dcba")):
        soundfile.write(folder / name, sing(text, 1.0, rng), SAMPLE_RATE_HZ)
    (folder / "broken.wav").write_text("no audio")
    (folder / "notes.txt").write_text("no audio and no refusal")
    return folder


def test_a_folder_gives_files_that_mirror_it(model: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done: list[tuple[int, int]] = []
    outcome = transcribe_files(
        model, [recordings], formats=["txt", "srt", "vtt", "json"], out=out, progress=lambda *c: done.append(c)
    )
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == sorted(
        f"{stem}.{ending}" for stem in ("a", "deep/b c") for ending in ("json", "srt", "txt", "vtt")
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    first = outcome.results[0]
    assert (out / "a.txt").read_text() == first.transcript.text + "\n"
    assert json.loads((out / "a.json").read_text())["text"] == first.transcript.text
    assert first.written == tuple(str(out / f"a.{ending}") for ending in ("txt", "srt", "vtt", "json"))
    assert [(Path(r.audio_path).name, r.reason) for r in outcome.refused] == [("broken.wav", "unreadable")]
    assert f"written to {out}" in outcome.as_text()
    assert f"set aside: {recordings / 'broken.wav'}: unreadable" in outcome.as_text()


def test_without_a_folder_the_text_is_shown(model: Path, recordings: Path) -> None:
    one = transcribe_files(model, [recordings / "a.wav"])
    assert one.as_text() == one.results[0].transcript.text
    assert one.results[0].transcript.words == ()
    assert one.results[0].written == ()
    subtitles = transcribe_files(model, [recordings / "a.wav"], formats=["vtt"]).as_text()
    assert subtitles.startswith("WEBVTT")
    both = transcribe_files(model, [recordings / "a.wav", recordings / "deep"])
    assert both.as_text().splitlines() == [f"{r.path}: {r.transcript.text}" for r in both.results]


def test_outcome_is_plain_data(model: Path, recordings: Path) -> None:
    fields = json.loads(json.dumps(transcribe_files(model, [recordings], formats=["json"], beam_width=4).as_dict()))
    assert [Path(row["path"]).name for row in fields["files"]] == ["a.wav", "b c.flac"]
    assert fields["files"][0]["words"][0].keys() == {"text", "start_seconds", "end_seconds", "confidence"}
    assert fields["refused"][0]["reason"] == "unreadable"
    assert fields["audio_seconds"] == pytest.approx(9 * 0.16)
    assert fields["real_time_factor"] == pytest.approx(fields["processing_seconds"] / fields["audio_seconds"])


def test_nothing_to_transcribe_is_an_error(model: Path, recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 files could be used; .*missing.wav: missing_file"):
        transcribe_files(model, [tmp_path / "missing.wav", recordings / "broken.wav"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected audio files; received none in"):
        transcribe_files(model, [tmp_path / "empty"])


def test_mistakes_are_found_before_the_model_is_loaded(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="received 'pdf'"):
        transcribe_files(tmp_path / "no model", [recordings], formats=["pdf"])
    with pytest.raises(ConfigError, match="expected a folder; received the file"):
        transcribe_files(tmp_path / "no model", [recordings], out=recordings / "a.wav")
