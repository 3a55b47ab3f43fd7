"""What a run folder holds is read as far as it is there; what is broken is named."""

from __future__ import annotations

import json

import pytest
from scored_runs import write_run

from myna.errors import DataError
from myna.report.folder import MAX_LINE_BYTES, read_run


def test_curves_leave_out_what_is_no_number(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "loss": null}\n{"step": 21, "loss": true}\n{"step": 22, "loss": 3}\n')
    read = read_run(run)
    assert read.curve("loss")[-1] == (22.0, 3.0)
    assert len(read.curve("loss")) == 20
    assert read.curve("eval_wer") == [(5.0, 0.2), (10.0, 0.1)]
    assert read.problems == []


def test_broken_lines_are_counted_and_named(tmp_path):
    run = write_run(tmp_path / "run")
    good = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(f'{good}[1]\n{{"loss": 1}}\n{"x" * MAX_LINE_BYTES}\n{{"step": 99, "lo')
    read = read_run(run)
    assert len(read.metrics) == 21
    assert len(read.problems) == 1
    assert "lines, the first of them line 22, could not be read" in read.problems[0]


def test_a_broken_file_is_named_and_the_rest_is_read(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "plan.json").write_text(json.dumps({"reasons": {"fp16": 3}}))
    (run / "result.json").write_text("{")
    (run / "config.yaml").write_text("a: [")
    read = read_run(run)
    assert read.plan is None
    assert read.result is None
    assert read.config == {}
    assert read.dataset.dataset_version == "0123456789abcdef"
    assert len(read.problems) == 3
    assert any("plan.json" in problem and "reasons.fp16" in problem for problem in read.problems)


def test_settings_that_are_not_there_have_a_default(tmp_path):
    read = read_run(write_run(tmp_path / "run", data="no section"))
    assert read.setting("model", "family") == "conformer"
    assert read.setting("data", "db", "none") == read.setting("adapter", "kind", "none") == "none"


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a run folder"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="expected a run folder"):
        read_run(tmp_path / "nowhere")
