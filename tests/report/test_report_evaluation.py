"""The newest evaluation, with intervals made from its utterances."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from scored_runs import utterance, write_run, write_scores

from myna.evaluate.hypotheses import HYPOTHESES_FILE, read_hypotheses
from myna.evaluate.run import hypotheses_path
from myna.intervals import rate_interval
from myna.report.evaluation import MAX_SLICES, evaluation_of
from myna.report.folder import read_run

HEARD = [(utterance(n, "One, two. Three"), "one two three" if n % 3 else "one too") for n in range(60)]


def test_scores_have_the_intervals_of_their_lines(tmp_path):
    run = write_run(tmp_path / "run", HEARD)
    evaluation = evaluation_of(read_run(run))
    written = json.loads((run / "scores.json").read_text())
    scores = {score.name: score for score in evaluation.scores}
    assert evaluation.problem == ""
    assert scores["WER, normalised"].rate == written["scores"]["normalized"]["wer"] == pytest.approx(40 / 180)
    assert scores["WER, normalised"].interval.low == written["wer_interval"]["low"]
    assert scores["CER, normalised"].interval.high == written["cer_interval"]["high"]
    raw = scores["WER, raw"]
    assert (raw.rate, raw.counts.reference) == (pytest.approx(1.0), 180)  # case and punctuation count
    assert raw.interval.low <= raw.rate <= raw.interval.high
    assert raw.interval.unit == "speaker"


def test_slices_have_the_intervals_of_their_utterances(tmp_path):
    run = write_run(tmp_path / "run", HEARD)
    intervals = evaluation_of(read_run(run)).slice_intervals
    lines = [line for line in read_hypotheses(run) if 2 <= line.duration_seconds < 5]
    errors, words = np.array([(line.word_errors, line.words) for line in lines]).T
    expected = rate_interval(errors, words, [line.speaker_id for line in lines])
    assert intervals["duration"]["2-5 s"] == expected
    assert set(intervals["speaker"]) == {f"speaker{n}" for n in range(6)}
    assert intervals["speaker"]["speaker1"].unit == "utterance"


def test_only_the_slices_that_are_shown_have_intervals(tmp_path):
    heard = [(utterance(n, "a b", speaker_id=f"s{n}"), "a c") for n in range(MAX_SLICES + 5)]
    intervals = evaluation_of(read_run(write_run(tmp_path / "run", heard))).slice_intervals
    assert len(intervals["speaker"]) == MAX_SLICES


def test_the_newest_is_taken_wherever_it_lies(tmp_path):
    run = write_run(tmp_path / "run", HEARD)
    (run / "result.json").write_text("{}")  # newer, and no evaluation
    assert evaluation_of(read_run(run)).path == run / "scores.json"
    for age, path in enumerate((run / "checkpoint-5" / "scores.json", run / "valid.json")):
        write_scores(path, HEARD[:9])
        later = (run / "scores.json").stat().st_mtime + 10 * (age + 1)
        os.utime(path, (later, later))
        assert evaluation_of(read_run(run)).path == path
    assert hypotheses_path(run / "valid.json").name == f"valid.{HYPOTHESES_FILE}"


def test_without_its_lines_an_evaluation_has_no_intervals_and_says_why(tmp_path):
    run = write_run(tmp_path / "run", HEARD)
    (run / HYPOTHESES_FILE).unlink()
    evaluation = evaluation_of(read_run(run))
    assert [score.interval for score in evaluation.scores] == [None] * 4
    assert HYPOTHESES_FILE in evaluation.problem


def test_lines_of_another_evaluation_are_not_used(tmp_path):
    run = write_run(tmp_path / "run", HEARD)
    lines = (run / HYPOTHESES_FILE).read_text().splitlines(keepends=True)
    (run / HYPOTHESES_FILE).write_text("".join(lines[1:]))
    assert "expected 40 errors in 180 words" in evaluation_of(read_run(run)).problem
    (run / HYPOTHESES_FILE).write_text("".join([*lines[1:], lines[0].replace('"words": 3', '"words": "3"')]))
    assert evaluation_of(read_run(run)).problem


def test_what_is_no_evaluation_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    assert evaluation_of(read_run(run)) is None
    (run / "scores.json").write_text('{"scores": 1}')
    read = read_run(run)
    assert evaluation_of(read) is None
    assert "scores.json" in read.problems[0]
