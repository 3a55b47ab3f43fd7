"""`myna report`: what is on the page, what is not yet there, and that what others wrote stays text."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scored_runs import utterance, write_run, write_scores

from myna.data.catalog import Catalog
from myna.errors import DataError
from myna.evaluate.hypotheses import compare_scored
from myna.report.run import write_comparison, write_report

HOSTILE = '<script>alert("1")</script> "><img src=x onerror=alert(2)> {{ 7*7 }}'


class Elements(HTMLParser):
    """Tags with their attributes, and all text, as a browser sees them."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def shown(page: Path) -> str:
    """The page's text, with single spaces."""
    return " ".join(Elements(page).text.split())


def test_a_report_has_scores_with_intervals_and_words(tmp_path):
    heard = [(utterance(n, "One two three"), "one two three" if n % 3 else "one too") for n in range(60)]
    run = write_run(tmp_path / "run", heard)
    summary = write_report(run)
    assert summary.path == run / "report.html"
    assert summary.size_bytes == summary.path.stat().st_size
    text = shown(summary.path)
    interval = json.loads((run / "scores.json").read_text())["wer_interval"]
    low, high = 100 * interval["low"], 100 * interval["high"]
    assert f"WER 22.22 % (95 %: {low:.2f} to {high:.2f} %; 180 words)" in text
    for expected in ("WER, raw 180 words", "CER, raw 780 characters", "By speaker", "By duration", "40 errors in 180"):
        assert expected in text, expected
    assert "two too 20" in text  # a confusion
    assert "WER 67 %: 2 errors in 3 words" in text
    assert "no player: missing_file" in text


def test_a_run_that_is_not_scored_says_how_to_score_it(tmp_path):
    run = write_run(tmp_path / "it's new", data={"db": "my catalog.db"})
    text = shown(write_report(run).path)
    assert f"myna evaluate '{str(run).replace(chr(39), chr(39) + chr(34) + chr(39) + chr(34) + chr(39))}'" in text
    assert "--db 'my catalog.db'" in text
    assert "not yet, or it was broken off; last seen at step 10" in text
    assert "Error rates on the validation split" in text


def test_the_plan_the_milestones_and_the_dataset_are_told(tmp_path, tone_catalog):
    with Catalog(tone_catalog) as catalog:
        version = catalog.version().version_id
    run = write_run(tmp_path / "run", data={"db": str(tone_catalog)})
    (run / "dataset.json").write_text(json.dumps({"dataset_version": version, "refused": [{"reason": "too_long"}]}))
    plan = {"config": {"fp16": True}, "step": {"precision": "fp16"}, "reasons": {"fp16": "the card has no bf16"}}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "results").mkdir()
    history = [{"step": 1, "hours": 0.5, "wer": 0.4, "new": 1}, {"step": 2, "hours": 1.5, "wer": 0.2}]
    milestones = [{"wer": 0.3, "reached_hours": 1.5}, {"wer": 0.1, "forecast": {"interval": [2.5, 4.0]}}]
    (run / "results" / "ttq_log.json").write_text(json.dumps({"history": history, "milestones": milestones}))
    summary = write_report(run)
    text = shown(summary.path)
    assert summary.problems == ()
    for expected in (
        "fp16 yes the card has no bf16",
        f"Dataset version {version}, prepared",
        "train 64",
        "wer reached hours forecast interval 0.3 1.5 0.1 2.5, 4",
        "WER over training time",
        "Lengths of utterances",
        "1 utterance (1 too_long)",
    ):
        assert expected in text, expected


def test_a_catalog_that_is_gone_is_told_and_the_rest_is_written(tmp_path):
    run = write_run(tmp_path / "run", data={"db": str(tmp_path / "gone.db")})
    (run / "plan.json").write_text(json.dumps({"dataset": {"utterances": 9, "quantile_seconds": [1.0, 2.0, 3.0]}}))
    summary = write_report(run)
    assert "gone.db" in summary.problems[0]
    assert f"Not on the page: {summary.problems[0]}" in summary.as_text()
    text = shown(summary.path)
    assert "gone.db" in text
    assert "Lengths of utterances" in text


def test_what_others_wrote_stays_text(tmp_path):
    said = utterance(1, f"{HOSTILE} one", f"/a\"b'c/{HOSTILE}.wav", speaker_id=HOSTILE, language="en")
    heard = [(said, HOSTILE), (utterance(2, "two"), f"{HOSTILE} three")]
    run = write_run(tmp_path / "a\"b'c<b>", heard, model={"family": HOSTILE})
    (run / "plan.json").write_text(json.dumps({"notes": [HOSTILE], "config": {HOSTILE: HOSTILE}}))
    other = write_run(tmp_path / "other", [(said, "one"), (utterance(2, "two"), HOSTILE)])
    for page in (write_report(run).path, write_comparison(run, other).path):
        seen = Elements(page)
        assert {tag for tag, _ in seen.tags} & {"script", "img", "b", "iframe", "link"} == set()
        assert [name for _, attributes in seen.tags for name in attributes if name.startswith("on")] == []
        assert 'alert("1")' in seen.text
        assert "49" not in seen.text.split()
        (policy,) = [a["content"] for tag, a in seen.tags if tag == "meta" and "http-equiv" in a]
        assert policy.startswith("default-src 'none'")


def test_a_page_loads_nothing(tmp_path):
    run = write_run(tmp_path / "run", [(utterance(1, "one"), "two")])
    addresses = [
        value
        for _, attributes in Elements(write_report(run).path).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert [value for value in addresses if not value.startswith(("#", "data:"))] == []


def test_two_runs_are_compared_in_pairs(tmp_path):
    said = [utterance(n, "a b c d") for n in range(60)]
    first = write_run(tmp_path / "x" / "run", [(one, "a b x y") for one in said], training={"seed": 1})
    second = write_run(tmp_path / "y" / "run", [(one, "a b x d" if n % 15 else "a b") for n, one in enumerate(said)])
    write_scores(second / "scores.json", [(one, "a b x d" if n % 15 else "a y") for n, one in enumerate(said)])
    summary = write_comparison(first, second)
    difference = compare_scored(first, second)
    assert summary.path == second / "comparison.html"
    assert summary.difference["p_value"] == difference.p_value
    text = shown(summary.path)
    assert f"run (second) less run (first): {100 * difference.rate:+.2f} points of WER" in text
    assert "240 words" in text
    assert "chance alone is an unlikely reason" in text
    assert "training.seed 1 0" in text
    assert "From 2 to 1 errors in 4 words" in text
    assert "From 2 to 3 errors in 4 words" in text


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    first = write_run(tmp_path / "first", [(utterance(1, "a"), "b")])
    second = write_run(tmp_path / "second")
    summary = write_comparison(first, second, tmp_path / "page.html")
    assert summary.difference is None
    assert "expected an evaluation" in summary.problems[0]
    assert "The scores cannot be compared" in shown(summary.path)
    write_scores(second / "scores.json", [(utterance(2, "a"), "b")])
    assert "same split of the same dataset version" in shown(write_comparison(first, second).path)


def test_a_folder_is_no_place_for_the_page(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(DataError, match="expected a file to write"):
        write_report(run, tmp_path)


def test_the_command_tells_where_the_page_is(tmp_path):
    run = write_run(tmp_path / "run", [(utterance(1, "one"), "two")])
    command = [sys.executable, "-W", "ignore", "-m", "myna", "report", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["path"] == str(run / "report.html")
    done = subprocess.run([*command, str(run), str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected one run folder or two; received 3" in done.stderr
