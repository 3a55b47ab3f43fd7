"""Words of reference and hypothesis side by side, as the WER counts them."""

from __future__ import annotations

from myna.metrics import score
from myna.report.alignment import MAX_PAIRS, MAX_WORD_LENGTH, WordPair, aligned


def test_pairs_say_what_became_of_each_word():
    assert aligned("Hôm nay, trời lạnh!", "hôm nai trời rất") == [
        WordPair("equal", "hôm", "hôm"),
        WordPair("substituted", "nay", "nai"),
        WordPair("equal", "trời", "trời"),
        WordPair("substituted", "lạnh", "rất"),
    ]
    assert aligned("a b", "b") == [WordPair("deleted", "a", ""), WordPair("equal", "b", "b")]
    assert aligned("", "x") == [WordPair("inserted", "", "x")]


def test_marked_words_are_the_errors_that_are_counted():
    reference, hypothesis = "one two three four five", "one too free for five six seven"
    marked = sum(pair.tag != "equal" for pair in aligned(reference, hypothesis, "en"))
    assert marked == score(reference, hypothesis, "en").normalized_words.errors


def test_language_decides_letters():
    assert aligned("IŞIK", "ışık", "tr")[0].tag == "equal"
    assert aligned("IŞIK", "ışık", "en")[0].tag == "substituted"


def test_endless_output_is_cut():
    pairs = aligned("a", "b " * (MAX_PAIRS + 7))
    assert len(pairs) == MAX_PAIRS + 1
    assert pairs[-1].said == "… 7 more"
    assert len(aligned("x" * 5000, "")[0].said) == MAX_WORD_LENGTH
