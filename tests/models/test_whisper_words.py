from __future__ import annotations

import numpy as np
import pytest

from myna.models.whisper_words import first_frames, group_words, token_starts


class Bytes:
    """A tokenizer whose tokens are byte strings."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int], **_: object) -> str:
        return b"".join(self.pieces[index] for index in ids).decode(errors="replace")


def spell(language: str, *pieces: bytes) -> list[tuple[str, float, float]]:
    ids = list(range(len(pieces)))
    starts = [float(index) for index in range(len(pieces) + 1)]
    words = group_words(Bytes(*pieces), ids, starts, [0.25] * len(pieces), language)  # type: ignore[arg-type]
    assert all(word.confidence == pytest.approx(0.25) for word in words)
    return [(word.text, word.start_seconds, word.end_seconds) for word in words]


def test_words_start_at_spaces() -> None:
    assert spell("es", b" Es", b"te", b" es", b".") == [("Este", 0, 2), ("es.", 2, 4)]


def test_split_characters_stay_together() -> None:
    first, second = "ế".encode()[:1], "ế".encode()[1:]
    assert spell("vi", b" ti", first, second, b"ng", b" Vi") == [("tiếng", 0, 4), ("Vi", 4, 5)]


def test_unspaced_languages_split_at_characters() -> None:
    first, second = "水".encode()[:2], "水".encode()[2:]
    assert spell("ja", "日本".encode(), first, second) == [("日本", 0, 1), ("水", 1, 3)]


def test_a_broken_end_is_kept() -> None:
    assert spell("vi", b" a", "ế".encode()[:1]) == [("a\ufffd", 0, 2)]


def test_no_tokens() -> None:
    assert spell("es") == []
    assert spell("es", b" ") == []


def test_first_frames_follow_the_cheapest_way() -> None:
    cost = np.ones((3, 6), dtype=np.float32)
    for row, column in [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]:
        cost[row, column] = 0.0
    assert first_frames(cost) == [0, 2, 4]
    assert first_frames(np.zeros((3, 1), dtype=np.float32)) == [0, 0, 0]


def test_token_starts_follow_the_attention() -> None:
    """Two prompt tokens and two of text; the position before a token looks at it for 20 frames of 0.02 s."""
    attention = np.full((2, 4, 60), 1e-3, dtype=np.float32)
    for position, frames in ((1, slice(0, 20)), (2, slice(20, 40)), (3, slice(40, 60))):
        attention[:, position, frames] = 1.0
    assert token_starts(attention, num_prompt=2) == pytest.approx([0.0, 0.4, 0.8], abs=0.041)
