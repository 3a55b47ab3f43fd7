"""Intervals hold the truth as often as they say, and tests of no difference find none."""

from __future__ import annotations

import numpy as np
import pytest

from myna.intervals import MAX_UNITS, compare, rate_interval

SPEAKER_SPREAD, UTTERANCE_SPREAD, BASE = 0.5, 1.0, -1.4  # of the log odds of an error
SIMULATIONS = 400


def true_rate() -> float:
    odds = BASE + np.hypot(SPEAKER_SPREAD, UTTERANCE_SPREAD) * np.random.default_rng(1).standard_normal(1_000_000)
    return float((1 / (1 + np.exp(-odds))).mean())


def simulated(rng: np.random.Generator, num_speakers: int = 60):
    """Errors, words and speakers of a test split of speakers who are understood better and worse."""
    speakers = np.repeat(np.arange(num_speakers), rng.geometric(1 / 5, num_speakers))
    words = 1 + rng.poisson(8, len(speakers))
    odds = BASE + SPEAKER_SPREAD * rng.standard_normal(num_speakers)[speakers]
    odds += UTTERANCE_SPREAD * rng.standard_normal(len(speakers))
    return rng.binomial(words, 1 / (1 + np.exp(-odds))), words, [f"s{speaker}" for speaker in speakers], odds


@pytest.mark.slow
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(monkeypatch):
    monkeypatch.setattr("myna.intervals.DRAWS", 500)
    rng, truth, held = np.random.default_rng(0), true_rate(), 0
    for _ in range(SIMULATIONS):
        errors, words, speakers, _ = simulated(rng)
        interval = rate_interval(errors, words, speakers)
        held += interval.low <= truth <= interval.high
    assert 0.93 <= held / SIMULATIONS <= 0.97


@pytest.mark.slow
def test_two_equal_systems_differ_in_5_percent(monkeypatch):
    monkeypatch.setattr("myna.intervals.DRAWS", 500)
    rng, found = np.random.default_rng(0), 0
    for _ in range(SIMULATIONS):
        errors, words, speakers, odds = simulated(rng)
        other = rng.binomial(words, 1 / (1 + np.exp(-odds)))
        found += compare(errors, other, words, speakers).is_significant
    assert 0.03 <= found / SIMULATIONS <= 0.07


def test_a_better_system_is_found():
    rng = np.random.default_rng(0)
    errors, words, speakers, _ = simulated(rng)
    better = rng.binomial(errors, 0.8)
    difference = compare(errors, better, words, speakers)
    assert difference.rate == pytest.approx((better.sum() - errors.sum()) / words.sum())
    assert difference.is_significant
    assert difference.interval.low <= difference.rate <= difference.interval.high < 0
    assert not compare(errors, errors, words, speakers).is_significant


def test_speakers_are_the_unit_where_they_are_known_and_enough():
    errors, words, speakers, _ = simulated(np.random.default_rng(0))
    by_speaker = rate_interval(errors, words, speakers)
    by_utterance = rate_interval(errors, words, [""] * len(words))
    assert (by_speaker.unit, by_speaker.units) == ("speaker", 60)
    assert (by_utterance.unit, by_utterance.units) == ("utterance", len(words))
    assert by_speaker.high - by_speaker.low > by_utterance.high - by_utterance.low
    assert rate_interval([1, 2, 0, 1], [4, 4, 4, 4], ["a", "a", "b", "b"]).unit == "utterance"


def test_an_interval_is_the_same_every_time():
    errors, words, speakers, _ = simulated(np.random.default_rng(0))
    assert rate_interval(errors, words, speakers) == rate_interval(errors, words, speakers)


def test_no_error_at_all_is_not_certainty():
    interval = rate_interval([0] * 100, [5] * 100, [""] * 100)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_a_single_utterance_is_a_point():
    interval = rate_interval([1], [4], [""])
    assert (interval.low, interval.high, interval.units) == (0.25, 0.25, 1)


def test_many_utterances_are_added_up_and_give_the_same_interval():
    rng = np.random.default_rng(0)
    words = np.full(50_000, 10)
    errors = rng.binomial(words, 0.1)
    interval = rate_interval(errors, words, [""] * len(words))
    assert interval.units == MAX_UNITS
    by_theory = 1.96 * np.sqrt(0.1 * 0.9 / words.sum())
    assert (interval.high - interval.low) / 2 == pytest.approx(by_theory, rel=0.1)


def test_a_few_utterances_give_students_interval():
    interval = rate_interval([0, 2], [10, 10], ["", ""])
    assert (interval.low, interval.high) == (0.0, pytest.approx(0.1 + 12.7062 * 0.1, rel=1e-4))
