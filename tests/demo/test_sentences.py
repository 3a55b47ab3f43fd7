"""Sentences: seeded, different from one another, from a small vocabulary of proper Vietnamese."""

from __future__ import annotations

import numpy as np
import pytest

from myna.demo.sentences import CHOICES, PATTERNS, make_sentences
from myna.errors import DataError
from myna.text import normalize


def draw(count: int, seed: int = 0) -> list[str]:
    return make_sentences(count, np.random.default_rng(seed))


def test_the_seed_decides() -> None:
    assert draw(50) == draw(50)
    assert draw(50) != draw(50, seed=1)


def test_all_are_different_and_already_normalised() -> None:
    sentences = draw(1_700)
    assert len(set(sentences)) == 1_700
    assert [normalize(sentence, "vi") for sentence in sentences] == sentences


def test_lengths_and_vocabulary_stay_small() -> None:
    sentences = draw(1_700)
    assert {len(sentence.split()) for sentence in sentences} == set(range(4, 12))
    assert 80 <= len({syllable for sentence in sentences for syllable in sentence.split()}) <= 100


def test_every_choice_is_named_and_used() -> None:
    used = {name for text in (*PATTERNS, *sum(CHOICES.values(), ())) for name in CHOICES if f"{{{name}}}" in text}
    assert used == set(CHOICES)


def test_asking_for_more_than_there_are() -> None:
    with pytest.raises(DataError, match="different sentences; asked for 1,000,000"):
        draw(1_000_000)
