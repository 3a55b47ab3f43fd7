"""Lines of scored utterances: whole, readable, and enough to compare two models."""

from __future__ import annotations

import json

import pytest

from myna.errors import DataError
from myna.evaluate.hypotheses import HYPOTHESES_FILE, Hypothesis, compare_scored, read_hypotheses, writing
from myna.metrics import score
from myna.samples import Utterance


def line(number: int, hypothesis: str, reference: str = "a b c d") -> Hypothesis:
    utterance = Utterance(
        f"id{number}", f"{number}.wav", reference, reference, 1.0, "test", f"speaker{number % 10}", "en"
    )
    return Hypothesis.of(utterance, hypothesis, score(reference, hypothesis))


def write(folder, lines) -> None:
    with writing(folder / HYPOTHESES_FILE) as hypotheses:
        for one in lines:
            hypotheses.add(one)


def test_lines_come_back_as_they_went(tmp_path):
    lines = [line(1, "a b x d"), line(2, "a", 'tiếng "Việt"\n')]
    write(tmp_path, lines)
    assert list(read_hypotheses(tmp_path)) == list(read_hypotheses(tmp_path / HYPOTHESES_FILE)) == lines
    assert (lines[0].words, lines[0].word_errors) == (4, 1)


def test_a_file_that_was_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / HYPOTHESES_FILE) as hypotheses:
        hypotheses.add(line(1, "a"))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_better_model_is_found(tmp_path):
    write(tmp_path / "first", [line(n, "a b x y") for n in range(40)])
    write(tmp_path / "second", [line(n, "a b x d" if n % 4 else "a b x y") for n in reversed(range(40))])
    difference = compare_scored(tmp_path / "first", tmp_path / "second")
    assert difference.rate == pytest.approx(-30 / 160)
    assert difference.is_significant
    assert difference.interval.unit == "speaker"


def test_what_cannot_be_compared_is_said(tmp_path):
    write(tmp_path / "first", [line(1, "a"), line(2, "a")])
    write(tmp_path / "second", [line(2, "a"), line(3, "a")])
    with pytest.raises(DataError, match="1 are in both, 2 in one alone"):
        compare_scored(tmp_path / "first", tmp_path / "second")
    with pytest.raises(DataError, match="myna evaluate"):
        compare_scored(tmp_path / "first", tmp_path / "third")
    (tmp_path / "second" / HYPOTHESES_FILE).write_text(json.dumps({"words": 1}))
    with pytest.raises(DataError, match="line 1"):
        compare_scored(tmp_path / "first", tmp_path / "second")
