"""What was said above what was heard, word by word."""

from __future__ import annotations

from dataclasses import dataclass

from myna.metrics import align
from myna.text import normalize

MAX_PAIRS = 400  # shown of one utterance
MAX_WORD_LENGTH = 200  # characters shown of one word
TAGS = {"equal": "equal", "replace": "substituted", "delete": "deleted", "insert": "inserted"}


@dataclass(frozen=True, slots=True)
class WordPair:
    """A word of the reference beside what became of it."""

    tag: str  # equal, substituted, deleted or inserted
    said: str  # "" where a word was inserted
    heard: str  # "" where it was deleted


def aligned(reference: str, hypothesis: str, language: str = "") -> list[WordPair]:
    """The normalised words of both, as the WER counts them; what comes after `MAX_PAIRS` pairs is left out."""
    said, heard = normalize(reference, language).split(), normalize(hypothesis, language).split()
    pairs = []
    for tag, start, end, other_start, other_end in align(said, heard):
        for place in range(max(end - start, other_end - other_start)):
            word = said[start + place] if start + place < end else ""
            other = heard[other_start + place] if other_start + place < other_end else ""
            pairs.append(WordPair(TAGS[tag], _short(word), _short(other)))
    left_out = len(pairs) - MAX_PAIRS
    return [*pairs[:MAX_PAIRS], WordPair("equal", f"… {left_out} more", "…")] if left_out > 0 else pairs


def _short(word: str) -> str:
    return word if len(word) <= MAX_WORD_LENGTH else word[: MAX_WORD_LENGTH - 1] + "…"
