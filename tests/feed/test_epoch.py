from __future__ import annotations

import numpy as np
import pytest

from myna.feed.epoch import BatchBudget, bucket_edges, plan_epoch, plan_evaluation


@pytest.fixture
def durations() -> np.ndarray:
    return np.random.default_rng(7).gamma(4.0, 1.4, size=5_000).clip(0.5, 20.0)


def real_share(plan, durations: np.ndarray) -> float:
    padded = sum(durations[step].max() * len(step) for step in plan.steps)
    return float(durations.sum() / padded)


def test_every_utterance_is_in_exactly_one_step(durations):
    plan = plan_epoch(durations, BatchBudget(160.0), seed=0, epoch=0)
    assert sorted(np.concatenate(plan.steps)) == list(range(len(durations)))


def test_steps_stay_within_the_budget_and_are_mostly_speech(durations):
    plan = plan_epoch(durations, BatchBudget(160.0), seed=0, epoch=0)
    assert all(durations[step].max() * len(step) <= 160.0 + 1e-6 for step in plan.steps)
    assert real_share(plan, durations) > 0.95


def test_same_arguments_same_plan_and_other_epochs_differ(durations):
    first, again, later = (plan_epoch(durations, BatchBudget(160.0), seed=3, epoch=epoch) for epoch in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first.steps, again.steps, strict=True))
    assert len(first.steps) == len(later.steps)
    together = {frozenset(step) for step in first.steps} & {frozenset(step) for step in later.steps}
    assert len(together) < 0.01 * len(first.steps)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_of_a_step_are_the_step_whatever_the_split(durations, parts):
    plan = plan_epoch(durations, BatchBudget(160.0), seed=0, epoch=0)
    for k in range(len(plan.steps)):
        pieces = [plan.micro_batch(k, part, parts) for part in range(parts)]
        assert np.array_equal(np.concatenate(pieces), plan.steps[k])
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_budget_counts_clips_of_the_longest_bucket():
    budget = BatchBudget.from_longest(10.0, 8, accumulation=2, world_size=2)
    plan = plan_epoch(np.full(64, 10.0), budget, seed=0, epoch=0)
    assert [len(step) for step in plan.steps] == [32, 32]


def test_a_rest_makes_one_smaller_step():
    plan = plan_epoch(np.full(7, 1.0), BatchBudget(3.0), seed=0, epoch=0)
    assert sorted(len(step) for step in plan.steps) == [1, 3, 3]


def test_bucket_edges_hold_equal_hours():
    edges = bucket_edges(np.arange(1.0, 101.0), 4)
    assert edges[-1] == 100.0
    hours = np.histogram(np.arange(1.0, 101.0), [0, *(edges + 0.5)], weights=np.arange(1.0, 101.0))[0]
    assert hours.max() - hours.min() < 110  # of 5050: at most one long clip apart


def test_evaluation_batches_are_complete_and_longest_first(durations):
    batches = list(plan_evaluation(durations, 100.0))
    assert sorted(np.concatenate(batches)) == list(range(len(durations)))
    longest = [durations[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(durations[batch].max() * len(batch) <= 100.0 + 1e-6 for batch in batches)


def test_the_first_epoch_begins_with_its_costliest_step(durations):
    first = plan_epoch(durations, BatchBudget(160.0), seed=0, epoch=0)
    costs = [len(step) * durations[step].max() for step in first.steps]
    assert costs[0] == max(costs)
    starts = [plan_epoch(durations, BatchBudget(160.0), seed=seed, epoch=1).steps[0] for seed in range(5)]
    assert any(len(step) * durations[step].max() < costs[0] for step in starts)  # later ones with any


def test_with_shards_every_utterance_is_still_in_one_step_of_as_many(durations):
    shard_of = np.arange(len(durations)) % 50
    plain, sharded = (
        plan_epoch(durations, BatchBudget(160.0), seed=0, epoch=1, shard_of=shards) for shards in (None, shard_of)
    )
    assert sorted(np.concatenate(sharded.steps)) == list(range(len(durations)))
    assert len(sharded.steps) == len(plain.steps)


def test_reads_of_shards_go_from_window_to_window():
    durations = np.random.default_rng(7).gamma(4.0, 1.4, size=60_000).clip(0.5, 20.0)
    shard_of = np.random.default_rng(8).integers(0, 120, len(durations))  # 500 utterances each, 20 to a window
    plan = plan_epoch(durations, BatchBudget(320.0), seed=0, epoch=1, shard_of=shard_of)
    assert real_share(plan, durations) > 0.95
    for start in range(0, len(plan.steps) - 100, 100):
        touched = np.unique(shard_of[np.concatenate(plan.steps[start : start + 100])])
        assert len(touched) <= 80  # of 120: a window, and what buckets began before it or fill after it
    later = plan_epoch(durations, BatchBudget(320.0), seed=0, epoch=2, shard_of=shard_of)
    first = [set(shard_of[np.concatenate(one.steps[:50])]) for one in (plan, later)]
    assert first[0] != first[1]  # other windows come first in another epoch
