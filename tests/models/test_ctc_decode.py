from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from myna.errors import ModelError
from myna.models.ctc_decode import (
    BLANK_ID,
    Hypothesis,
    align_tokens,
    beam_search,
    geometric_mean,
    greedy,
    words,
)

Table = NDArray[np.float64]


def random_table(num_frames: int, num_tokens: int, seed: int, sharpness: float = 1.0) -> Table:
    logits = sharpness * np.random.default_rng(seed).normal(size=(num_frames, num_tokens))
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def table_of(rows: list[list[float]]) -> Table:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK_ID)


def all_sequences(table: Table) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence, by going through every path."""
    probabilities: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(table.shape[1]), repeat=len(table)):
        probabilities[collapse(path)] += math.exp(sum(table[t, token] for t, token in enumerate(path)))
    return {ids: math.log(probability) for ids, probability in probabilities.items() if probability > 0}


def best_path_score(table: Table, ids: tuple[int, ...]) -> float:
    paths = itertools.product(range(table.shape[1]), repeat=len(table))
    return max(sum(table[t, k] for t, k in enumerate(path)) for path in paths if collapse(path) == ids)


def test_greedy_joins_repeats_and_drops_blanks() -> None:
    table = table_of([[0.1, 0.9, 0], [0.4, 0.6, 0], [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0, 0.3, 0.7]])
    found = greedy(table)
    assert found.ids == (1, 1, 2)
    assert found.frames == (0, 3, 4)
    assert found.end_frames == (2, 4, 5)
    assert found.confidences == pytest.approx((0.9, 0.7, 0.7))
    assert found.score == pytest.approx(math.log(0.9 * 0.6 * 0.8 * 0.7 * 0.7))


@pytest.mark.parametrize("search", [greedy, lambda table: beam_search(table, 4)])
@pytest.mark.parametrize("num_frames", [0, 3])
def test_silence_and_empty_clips_give_nothing(search, num_frames: int) -> None:  # type: ignore[no-untyped-def]
    found = search(table_of([[1.0, 0.0]] * num_frames) if num_frames else np.zeros((0, 2)))
    assert found == Hypothesis((), (), (), (), 0.0)


@pytest.mark.parametrize("seed", range(40))
def test_wide_beam_equals_enumeration(seed: int) -> None:
    num_frames, num_tokens = 3 + seed % 4, 2 + seed % 3
    table = random_table(num_frames, num_tokens, seed)
    oracle = all_sequences(table)
    found = beam_search(table, 10_000, token_floor=-math.inf)
    assert found.score == pytest.approx(max(oracle.values()), abs=1e-9)
    assert oracle[found.ids] == pytest.approx(max(oracle.values()), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_narrow_beam_never_claims_more_than_the_truth(seed: int) -> None:
    table = random_table(6, 3, seed)
    oracle = all_sequences(table)
    for width in (1, 2, 3):
        found = beam_search(table, width, token_floor=-math.inf)
        assert found.score <= oracle[found.ids] + 1e-9


def test_beam_adds_up_paths_where_greedy_does_not() -> None:
    table = table_of([[0.6, 0.4], [0.6, 0.4]])  # blank blank has 0.36, the three paths of "1" 0.64
    assert greedy(table).ids == ()
    found = beam_search(table, 2)
    assert found.ids == (1,)
    assert found.score == pytest.approx(math.log(0.64))


def test_prefix_that_left_the_beam_returns_as_itself() -> None:
    exact = 0
    for seed in range(30):
        table = random_table(7, 3, seed, sharpness=2.0)
        found = beam_search(table, 4, token_floor=-math.inf)
        exact += found.ids == max((score, ids) for ids, score in all_sequences(table).items())[1]
    assert exact >= 27


@pytest.mark.parametrize("width", [1, 3, 10])
def test_sharp_tables_decode_like_greedy_at_any_width(width: int) -> None:
    table = random_table(80, 30, seed=1, sharpness=30.0)
    assert beam_search(table, width).ids == greedy(table).ids


def test_floor_prunes_only_what_cannot_win() -> None:
    table = random_table(60, 40, seed=2, sharpness=5.0)
    assert beam_search(table, 8).ids == beam_search(table, 8, token_floor=-math.inf).ids


@pytest.mark.parametrize("seed", range(20))
def test_alignment_is_the_best_path(seed: int) -> None:
    table = random_table(6, 3, seed)
    for ids in [(1,), (2, 1), (1, 1), (1, 2, 1), (2, 2, 1)]:
        starts, ends = align_tokens(table, ids)
        path = np.zeros(len(table), dtype=int)
        for token, start, end in zip(ids, starts, ends, strict=True):
            path[start:end] = token
        assert collapse(tuple(path)) == ids
        assert table[np.arange(len(table)), path].sum() == pytest.approx(best_path_score(table, ids))


def test_alignment_of_nothing_is_nothing() -> None:
    starts, ends = align_tokens(random_table(4, 3, 0), [])
    assert len(starts) == len(ends) == 0


@pytest.mark.parametrize("ids", [(1, 2, 1, 2), (1, 1), (1, 2, 2)])
def test_alignment_refuses_tokens_that_do_not_fit(ids: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="tokens that fit into"):
        align_tokens(random_table(2 if ids == (1, 1) else 3, 3, 0), ids)


def test_alignment_refuses_impossible_tokens() -> None:
    with pytest.raises(ModelError, match="tokens that fit into"):
        align_tokens(table_of([[0.5, 0.5, 0.0]] * 4), [2])


def test_times_of_beam_search_match_greedy_on_clear_speech() -> None:
    table = random_table(50, 20, seed=3, sharpness=40.0)
    found, reference = beam_search(table, 5), greedy(table)
    assert (found.frames, found.end_frames) == (reference.frames, reference.end_frames)


@pytest.mark.parametrize("table", [np.zeros(5), np.array([[0.0, math.nan]]), np.full((1, 2), -math.inf)])
def test_bad_tables_are_named(table: Table) -> None:
    with pytest.raises(ModelError, match="log-probabilities"):
        greedy(table)


def test_words_from_characters() -> None:
    pieces = ["", "▁", "a", "b"]
    heard = Hypothesis(
        ids=(1, 2, 3, 1, 1, 3, 0), frames=(0, 1, 3, 5, 7, 8, 9), end_frames=(1, 2, 4, 6, 8, 9, 10),
        confidences=(0.1, 0.9, 0.4, 0.1, 0.1, 0.5, 0.2), score=0.0,
    )  # fmt: skip
    first, second = words(heard, pieces, frame_seconds=0.04)
    assert (first.text, second.text) == ("ab", "b")
    assert (first.start_seconds, first.end_seconds) == pytest.approx((0.04, 0.16))
    assert (second.start_seconds, second.end_seconds) == pytest.approx((0.32, 0.36))
    assert first.confidence == pytest.approx(0.6)  # sqrt(0.9 * 0.4), spaces do not count
    assert second.confidence == pytest.approx(0.5)


def test_words_from_subwords() -> None:
    pieces = ["", "▁he", "llo", "▁w", "orld", "▁"]
    heard = Hypothesis((1, 2, 3, 4), (0, 2, 5, 6), (1, 3, 6, 9), (1.0, 0.25, 1.0, 1.0), 0.0)
    found = words(heard, pieces, frame_seconds=1.0)
    assert [(w.text, w.start_seconds, w.end_seconds) for w in found] == [("hello", 0, 3), ("world", 5, 9)]
    assert found[0].confidence == pytest.approx(0.5)


def test_no_tokens_no_words() -> None:
    assert words(Hypothesis((), (), (), (), 0.0), ["", "a"], 0.04) == ()
    assert words(Hypothesis((1,), (0,), (1,), (1.0,), 0.0), ["", "▁"], 0.04) == ()


def test_geometric_mean() -> None:
    assert geometric_mean([0.25, 1.0]) == pytest.approx(0.5)
    assert geometric_mean([]) == geometric_mean([0.0, 1.0]) == 0.0


def test_five_seconds_decode_in_well_under_100_ms() -> None:
    table = random_table(125, 100, seed=4, sharpness=0.5)  # flat, so that no token is pruned
    beam_search(table, 10)
    fastest = math.inf
    for _ in range(3):
        start = time.process_time()
        beam_search(table, 10)
        fastest = min(fastest, time.process_time() - start)
    assert fastest < 0.1
