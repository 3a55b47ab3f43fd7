from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from method_cases import write_base
from rich.console import Console

from myna.config import load_config
from myna.errors import ConfigError
from myna.models.audio_context import AudioContext
from myna.models.build import load_recognizer
from myna.models.metadata import read_metadata, write_metadata
from myna.models.recognizer import DecodeOptions
from myna.train import context_check
from myna.train.context_check import judge, settle_audio_context, write_context
from myna.train.run import train

WORDS = 10  # of each utterance
CONTEXT = AudioContext(3.0, 9.5)
KEPT = {"audio_context_margin_seconds": "3.0", "audio_context_longest_seconds": "9.5"}


def errors(*counts: int) -> context_check.Errors:
    return np.array([(count, WORDS) for count in counts])


def stays(short: context_check.Errors, full: context_check.Errors, start_rate: float | None = None) -> bool:
    return judge(short, full, context=CONTEXT, start_rate=start_rate, metric="wer").context == CONTEXT


def test_short_context_stays_where_nothing_is_lost() -> None:
    full = errors(*[2] * 100)
    assert stays(full, full)
    assert stays(errors(*[1] * 100), full)
    assert not stays(errors(*[3] * 4, *[2] * 96), full)  # 0.4 points, and never the other way round
    assert stays(errors(*[3] * 24, *[1] * 20, *[2] * 56), full)  # 0.4 points, by chance
    assert not stays(errors(*[3] * 26, *[1] * 20, *[2] * 54), full)  # by chance, but 0.6 points
    assert stays(full, full, start_rate=0.2)
    assert not stays(full, full, start_rate=0.199)


def test_a_verdict_says_why() -> None:
    kept = judge(errors(1, 2), errors(2, 2), context=CONTEXT, start_rate=0.25, metric="cer")
    assert str(kept) == (
        "Audio context: the best checkpoint hears clips of up to 9.5 s and 3 s of silence, since validation says CER "
        "15.00 % in short context, 20.00 % in full (difference -68.53 to +58.53 points), 25.00 % before training."
    )
    assert (kept.short_rate, kept.full_rate, kept.start_rate) == (0.15, 0.2, 0.25)
    lost = judge(errors(9, 9), errors(2, 2), context=CONTEXT, start_rate=None, metric="wer")
    assert str(lost).startswith("Audio context: the best checkpoint hears the full 30 s, since validation says WER 90")


def test_the_context_is_written_beside_what_was_there(tmp_path: Path) -> None:
    write_metadata(tmp_path, {"family": "whisper"})
    write_context(tmp_path, CONTEXT)
    assert read_metadata(tmp_path) == {"family": "whisper", **KEPT}
    write_context(tmp_path, None)
    assert read_metadata(tmp_path) == {"family": "whisper"}


@pytest.fixture(scope="module")
def tiny(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tiny") / "whisper", "whisper", shared)


def settings(catalog: Path, base: Path, run: Path, *more: str) -> list[str]:
    """A Whisper of random weights for a few steps."""
    return [
        *("model.family=whisper", f"model.pretrained={base}", "model.language=es", "model.audio_context=auto"),
        *(f"data.db={catalog}", f"training.output_dir={run}", "data.min_duration_seconds=0.1"),
        *("training.effective_batch_size=16", "training.max_steps=2", "training.eval_on_start=true"),
        *("training.dataloader_num_workers=0", "decode.max_new_tokens=3", *more),
    ]


@pytest.mark.slow
def test_a_run_that_gains_nothing_ends_as_it_began(tone_catalog: Path, tmp_path: Path, tiny: Path) -> None:
    """And is asked all the same which context serves it: none had to be learned."""
    run = tmp_path / "run"
    config = load_config([], settings(tone_catalog, tiny, run, "training.learning_rate=1e-9"))
    result = train(config, console=Console(quiet=True))
    assert result.best_step == 0
    assert result.audio_context is not None and result.audio_context.start_rate == result.audio_context.short_rate
    plan = json.loads((run / "plan.json").read_text())
    assert plan["feed"]["step_seconds"] < 16 * 3  # clips of about 1.5 s and their margins, not 30 s


@pytest.mark.slow
def test_the_best_checkpoint_is_asked(tone_catalog: Path, tmp_path: Path, tiny: Path) -> None:
    run = tmp_path / "run"
    learned = settings(tone_catalog, tiny, run, "training.learning_rate=3e-3", "training.max_steps=8")
    result = train(load_config([], [*learned, "training.metric_for_best_model=loss"]), console=Console(quiet=True))
    assert result.best_step and result.audio_context is not None
    found = result.audio_context
    assert None not in (found.short_rate, found.full_rate, found.start_rate, found.interval)
    kept = read_metadata(run / "best").get("audio_context_margin_seconds")
    assert kept == (None if found.context is None else "0.2")
    assert load_recognizer(run).processor.padded_seconds(1.0) == (30.0 if found.context is None else 1.2)


def test_a_model_that_loses_goes_back_to_full_context(
    tone_catalog: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are made up here; that they are counted in both contexts is asked above."""
    load_recognizer(tiny).save_pretrained(tmp_path)
    write_context(tmp_path, CONTEXT)
    asked: list[AudioContext | None] = []

    def made_up(_recognizer: object, _utterances: object, context: AudioContext | None, *_: object) -> object:
        asked.append(context)
        return errors(*[2 if context is None else 9] * 50)

    monkeypatch.setattr(context_check, "count_errors_in", made_up)
    verdict = settle_audio_context(
        tmp_path, [], context=CONTEXT, start_rate=0.2, metric="wer", batch_seconds=30, options=DecodeOptions()
    )
    assert (verdict.context, asked) == (None, [None, CONTEXT])
    assert load_recognizer(tmp_path).processor.padded_seconds(1.0) == 30.0


def test_auto_needs_a_start_to_compare_with() -> None:
    whisper = ["model.family=whisper", "model.pretrained=openai/whisper-tiny", "model.audio_context=auto"]
    for wrong in (["training.eval_strategy=no"], ["training.eval_on_start=false"]):
        with pytest.raises(ConfigError, match=r"it needs training\.eval_strategy epoch or steps"):
            load_config([], [*whisper, *wrong])
    with pytest.raises(ConfigError, match=r"model\.audio_context=auto works with whisper; received family conformer"):
        load_config([], ["model.audio_context=auto", "training.eval_on_start=true"])
