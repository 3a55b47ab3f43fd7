from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from method_cases import TEXTS, build_method, speech_batch, write_base
from rich.console import Console
from transformers import TrainerControl, TrainerState

from myna.config import load_config
from myna.models.build import build_recognizer
from myna.samples import Utterance
from myna.train.blank_causes import BlankFacts, likely_causes, texts_against_audio, updates_of_silence
from myna.train.blank_watch import BlankWatch
from myna.train.run import train

FINE = BlankFacts(pretrained=True, encoder_learns=True, adapters=False, learning_rate=1e-4, fp16=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 1e-3}, "0.001, is high for a pretrained encoder"),
        ({"learning_rate": 1e-6}, "hardly moves"),
        ({"learning_rate": 1e-2, "adapters": True}, "training.learning_rate=0.001"),
        ({"fp16": True, "overflow_share": 0.4}, "40% of the logged gradients"),
        ({"overflow_share": 1.0}, "Lower the learning rate"),
        ({"spoke_at": 700}, "until step 700"),
        ({"encoder_learns": False}, "the encoder is frozen"),
        ({"unknown_share": 0.3}, "does not know 30% of the labels"),
        (
            {"crowded_share": 0.25, "frame_seconds": 0.08},
            "25% of the clips have nearly as many labels as encoder frames of 80 ms",
        ),
        ({"odd_share": 0.5}, "50% of the clips have texts that nobody speaks"),
    ],
)
def test_a_cause_is_named_where_the_facts_speak_for_it(change, said):
    (cause,) = likely_causes(replace(FINE, **change))
    assert said in cause


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"adapters": True, "learning_rate": 1e-3},
        {"pretrained": False, "learning_rate": 1e-3},
        {"fp16": True, "overflow_share": 0.05},  # a scaler looks for its scale
        {"unknown_share": 0.01, "crowded_share": 0.02, "odd_share": 0.02},
    ],
)
def test_what_is_usual_is_no_cause(change):
    assert likely_causes(replace(FINE, **change)) == []


def spoken(text: str, seconds: float) -> Utterance:
    return Utterance(text, "", text, text, seconds, "train")


def test_texts_are_held_against_audio_and_tokenizer():
    processor = build_recognizer(load_config([], ["model.d_model=16", "model.num_encoder_layers=1"]), ["abc"]).processor
    rows = [
        spoken("abca", 1.0),  # fine: 4 labels in 25 frames
        spoken("aaaaaaaaaaa", 1.0),  # 11 and 10 blanks between them: more than 20 of 25 frames
        spoken("xxxx", 4.0),  # unknown, and 16 frames more than enough
        spoken("a", 5.0),  # one letter in 5 s
    ]
    found = texts_against_audio(rows, processor)
    assert found == {"crowded_share": 0.25, "unknown_share": 4 / 20, "odd_share": 0.25, "frame_seconds": 0.04}


def test_silence_is_longer_from_scratch(tmp_path):
    assert updates_of_silence(load_config(), 100) == 2100
    assert updates_of_silence(load_config([], ["model.pretrained=some/model"]), 50) == 550


class Run:
    """A watch on a tiny model, told what the trainer would tell it."""

    def __init__(self, base, family: str = "conformer", method: str = "full", max_steps: int = 10_000) -> None:
        self.recognizer = build_method(base, family, method)
        self.said = io.StringIO()
        config = load_config([], [f"model.family={family}", f"model.pretrained={base}", "training.learning_rate=1e-4"])
        rows = [spoken(text, 1.0) for text in TEXTS]
        self.watch = BlankWatch(config, self.recognizer, rows, Console(file=self.said, width=300))
        self.args = SimpleNamespace(logging_steps=10, get_warmup_steps=lambda steps: 100)
        self.state = TrainerState(max_steps=max_steps, is_world_process_zero=True)
        self.watch.on_train_begin(self.args, self.state, TrainerControl())

    def log(self, step: int, blank: bool) -> dict[str, float]:
        """Train until a step that is logged."""
        head = next(
            m for n, m in self.recognizer.model.named_modules() if n.endswith(("head", "modules_to_save.default"))
        )
        with torch.no_grad():
            head.bias[0] = 1000.0 if blank else -1000.0
        self.state.global_step = step - 1
        self.watch.on_step_begin(self.args, self.state, TrainerControl())
        self.recognizer.losses(self.recognizer.model, speech_batch(self.recognizer, rows=2))
        self.state.global_step = step
        logs = {"loss": 1.0, "grad_norm": 1.0}
        self.watch.on_log(self.args, self.state, TrainerControl(), logs=logs)
        return logs

    def validate(self, step: int, empty_share: float, wer: float = 1.0) -> None:
        self.state.global_step = step
        metrics = {"eval_empty_share": empty_share, "eval_wer": wer}
        self.watch.on_evaluate(self.args, self.state, TrainerControl(), metrics=metrics)

    def new(self) -> str:
        text = self.said.getvalue()
        self.said.seek(0)
        self.said.truncate()
        return text


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "conformer"
    return write_base(folder, "conformer", folder)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_logged_lines_say_how_much_is_blank(base, method):
    run = Run(base, method=method)
    assert run.log(10, blank=True)["blank_share"] == 1.0
    assert run.log(20, blank=False)["blank_share"] == 0.0
    run.watch.on_step_begin(run.args, run.state, TrainerControl())  # of a step that is not logged
    run.recognizer.losses(run.recognizer.model, speech_batch(run.recognizer, rows=1))
    assert run.watch._share is None


def test_the_start_may_be_silent_and_is_told_so_once(base):
    run = Run(base)
    for step in (10, 20, 30, 40):
        run.log(step, blank=True)
    assert run.new() == ""
    run.validate(50, empty_share=1.0)
    assert "normal until about step 600" in run.new()
    run.validate(100, empty_share=1.0)
    assert run.new() == ""


def test_silence_that_lasts_is_told_once_with_what_the_facts_say(base):
    run = Run(base)
    for step in (600, 610):
        run.log(step, blank=True)
    assert run.new() == ""
    run.log(620, blank=True)
    assert "Nothing is recognised at step 620" in (said := run.new())
    assert "none of the usual ones" in said
    run.log(630, blank=True)
    run.validate(640, empty_share=1.0)
    assert run.new() == ""
    run.log(650, blank=False)
    assert run.new() == ""  # it recovers silently
    for step in (660, 670, 680):
        run.log(step, blank=True)
    assert "it spoke until step 650" in run.new()


def test_a_model_that_spoke_is_not_given_time(base):
    run = Run(base)
    run.validate(20, empty_share=0.1, wer=0.6)
    run.validate(40, empty_share=0.99)
    assert "it spoke until step 20" in run.new()


def test_the_babble_of_an_untrained_head_is_not_speech(base):
    run = Run(base)
    run.log(10, blank=False)
    run.validate(20, empty_share=0.1)
    for step in (30, 40, 50):
        run.log(step, blank=True)
    assert run.new() == ""
    run.validate(60, empty_share=1.0)
    assert "normal until about step 600" in run.new()


def test_a_short_run_that_ends_in_silence_hears_of_it(base):
    run = Run(base, max_steps=40)
    run.log(40, blank=True)
    run.watch.on_train_end(run.args, run.state, TrainerControl())
    assert "too few updates: words usually come by step 600" in run.new()
    stopped = Run(base, max_steps=80)  # by a signal: it will go on
    stopped.log(40, blank=True)
    stopped.watch.on_train_end(stopped.args, stopped.state, TrainerControl())
    assert stopped.new() == ""


def test_facts_are_those_of_the_run(base):
    assert Run(base, method="freeze_encoder").watch.facts().encoder_learns is False
    facts = Run(base).watch.facts()
    assert (facts.pretrained, facts.encoder_learns, facts.adapters, facts.learning_rate) == (True, True, False, 1e-4)


@pytest.mark.slow
def test_a_run_that_cannot_speak_says_why(tone_catalog, tmp_path):
    sizes = [f"model.{size}" for size in ("d_model=16", "num_encoder_layers=1", "num_heads=2", "d_ff=16")]
    base = build_recognizer(load_config([], sizes), ["abcd "])
    base.model.head.bias.data[0] = 100.0
    base.save_pretrained(tmp_path / "base")
    said = io.StringIO()
    config = load_config(
        [],
        [
            f"data.db={tone_catalog}",
            f"model.pretrained={tmp_path / 'base'}",
            f"training.output_dir={tmp_path / 'run'}",
            *("training.max_steps=4", "training.logging_steps=1", "training.learning_rate=1e-6"),
            *("training.dataloader_num_workers=0", "training.effective_batch_size=4"),
        ],
    )
    train(config, console=Console(file=said, width=200))
    assert "too few updates" in said.getvalue()
    assert "1e-06, hardly moves" in said.getvalue()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["blank_share"] for line in lines if "loss" in line] == [1.0] * 4
    assert [line["eval_empty_share"] for line in lines if "eval_wer" in line] == [1.0]
