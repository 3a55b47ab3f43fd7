from __future__ import annotations

import random
from collections import Counter

import pytest

from myna.data.splits import SplitRow, plan_splits


def rows(speakers: int, each: int = 10, split: str = "", seconds: float = 2.0, name: str = "s") -> list[SplitRow]:
    return [SplitRow(f"{name}{s}-{n}", f"{name}{s}", split, seconds) for s in range(speakers) for n in range(each)]


def plan(found: list[SplitRow], valid_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0):
    return plan_splits(found, valid_ratio=valid_ratio, test_ratio=test_ratio, seed=seed)


def speakers_of(found: list[SplitRow], split_of: dict[str, str]) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for row in found:
        splits.setdefault(split_of.get(row.utterance_id, row.split), set()).add(row.speaker_id)
    return splits


def test_speakers_stay_together_and_shares_are_met():
    found = rows(40)
    split_of = plan(found).split_of
    assert Counter(split_of.values()) == {"train": 320, "valid": 40, "test": 40}
    speakers = speakers_of(found, split_of)
    assert not speakers["train"] & speakers["valid"]
    assert not speakers["train"] & speakers["test"]
    assert not speakers["valid"] & speakers["test"]


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    found = [row._replace(duration_seconds=0.1 + n / 7) for n, row in enumerate(rows(20))]
    shuffled = random.Random(1).sample(found, len(found))
    assert plan(shuffled) == plan(found)
    assert plan(found, seed=1) != plan(found)


def test_hours_count_and_not_rows():
    found = [row._replace(duration_seconds=1.0 + int(row.speaker_id[1:])) for row in rows(50)]
    split_of = plan(found, 0.2, 0.1).split_of
    seconds = Counter()
    for row in found:
        seconds[split_of[row.utterance_id]] += row.duration_seconds
    total = sum(seconds.values())
    assert seconds["valid"] / total == pytest.approx(0.2, abs=0.03)
    assert seconds["test"] / total == pytest.approx(0.1, abs=0.03)


def test_rows_without_a_speaker_are_speakers_of_their_own():
    found = [row._replace(speaker_id="") for row in rows(10)]
    assert Counter(plan(found).split_of.values()) == {"train": 80, "valid": 10, "test": 10}


def test_three_speakers_are_just_enough():
    found = rows(3)
    result = plan(found)
    assert sorted(map(len, speakers_of(found, result.split_of).values())) == [1, 1, 1]
    assert result.notes == ()


def test_a_dominant_speaker_stays_in_train():
    found = rows(1, 100, name="big") + rows(4, 1)
    assert "big0" in speakers_of(found, plan(found).split_of)["train"]


@pytest.mark.parametrize("speakers", [1, 2])
def test_too_few_speakers_are_split_by_utterance_and_said_so(speakers):
    result = plan(rows(speakers, 50))
    assert set(result.split_of.values()) == {"train", "valid", "test"}
    assert "the splits share speakers" in result.notes[0]


def test_two_utterances_are_all_train():
    result = plan(rows(2, 1))
    assert set(result.split_of.values()) == {"train"}
    assert "too few" in result.notes[0]


def test_a_share_of_zero_makes_no_split():
    assert set(plan(rows(10), 0.2, 0).split_of.values()) == {"train", "valid"}
    assert set(plan(rows(10), 0, 0).split_of.values()) == {"train"}


def test_named_splits_are_kept():
    found = rows(5, split="train") + rows(2, split="valid", name="v")
    assert plan(found) == ({}, ())


def test_valid_is_taken_from_train_by_speaker():
    found = rows(10, split="train") + rows(2, split="test", name="t")
    result = plan(found)
    speakers = speakers_of(found, result.split_of)
    assert len(speakers["valid"]) == 1
    assert not speakers["valid"] & speakers["train"]
    assert speakers["test"] == {"t0", "t1"}
    assert "10% of train became valid" in result.notes[0]


def test_a_source_of_tests_alone_stays_one():
    assert plan(rows(5, split="test")) == ({}, ())


def test_open_rows_follow_their_speaker_or_join_train():
    found = [
        SplitRow("a", "ann", "test", 1.0),
        SplitRow("b", "ann", "", 1.0),
        SplitRow("c", "bob", "valid", 1.0),
        SplitRow("d", "cyd", "", 1.0),
        SplitRow("e", "", "", 1.0),
        SplitRow("f", "", "valid", 1.0),
    ]
    result = plan(found)
    assert result.split_of == {"b": "test", "d": "train", "e": "train"}
    assert result.notes == ("3 rows without a split follow their speaker, or join train",)
