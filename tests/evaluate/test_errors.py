from __future__ import annotations

import pytest

from myna.evaluate.errors import Slices, WorstUtterances, duration_bin
from myna.metrics import Scores, score
from myna.samples import Utterance


def utterance(number: int, *, seconds: float = 1.0, speaker: str = "", language: str = "") -> Utterance:
    return Utterance(f"{number:016x}", f"/a/{number}.wav", "one two", "one two", seconds, "test", speaker, language)


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (0.0, "0-2 s"),
        (1.99, "0-2 s"),
        (2.0, "2-5 s"),
        (7, "5-10 s"),
        (29.9, "20-30 s"),
        (30.0, "30+ s"),
        (500, "30+ s"),
    ],
)
def test_duration_bins(seconds: float, name: str) -> None:
    assert duration_bin(seconds) == name


def test_slices_add_up_to_the_whole() -> None:
    slices = Slices()
    rows = [("ann", 1.0, "one two"), ("bob", 3.0, "one"), ("ann", 3.5, "two one two"), ("", 40.0, "ONE two.")]
    for number, (speaker, seconds, heard) in enumerate(rows):
        slices.add(utterance(number, seconds=seconds, speaker=speaker, language="en"), score("one two", heard))
    tables = slices.as_dict()
    assert set(tables) == {"speaker", "duration", "language"}
    assert list(tables["speaker"]) == ["ann", "bob", "unknown"]
    assert list(tables["duration"]) == ["0-2 s", "2-5 s", "30+ s"]
    assert tables["speaker"]["ann"] == {
        "utterances": 2,
        "words": 4,
        "audio_seconds": 4.5,
        "wer": 0.25,
        "cer": pytest.approx(4 / 14),
        "accuracy": 0.5,
        "raw_wer": 0.25,
    }
    assert tables["speaker"]["unknown"]["wer"] == 0.0
    assert tables["speaker"]["unknown"]["raw_wer"] == 1.0
    for table in tables.values():
        assert sum(entry["utterances"] for entry in table.values()) == len(rows)
        assert sum(entry["audio_seconds"] for entry in table.values()) == pytest.approx(47.5)


def test_worst_utterances_come_first_and_are_few() -> None:
    worst = WorstUtterances(capacity=2)
    for number, heard in enumerate(["one two", "one", "x y z", "", "x y"]):
        worst.add(utterance(number), heard, score("one two", heard))
    rows = worst.as_list()
    assert [(row["hypothesis"], row["wer"], row["errors"]) for row in rows] == [("x y z", 1.5, 3), ("x y", 1.0, 2)]
    assert rows[0]["audio_path"] == "/a/2.wav"


def test_perfect_utterances_are_never_the_worst() -> None:
    worst = WorstUtterances()
    worst.add(utterance(0), "one two", Scores(utterances=1))
    assert worst.as_list() == []
