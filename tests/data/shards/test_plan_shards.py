from __future__ import annotations

import numpy as np
import pytest

from myna.data.catalog import Catalog
from myna.data.shards.plan import deal, plan_shards, tasks


def test_every_one_is_in_one_part_and_parts_are_alike():
    sizes = np.random.default_rng(0).integers(1_000, 50_000, 10_000)
    parts = deal(sizes, 10e6, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(10_000))
    totals = [sizes[part].sum() for part in parts]
    assert len(parts) == -(-sizes.sum() // 10_000_000)
    assert max(totals) - min(totals) < 2 * 50_000
    assert max(totals) < 10e6 + 50_000


def test_parts_are_random_samples_and_the_same_every_time():
    sizes = np.full(10_000, 100)
    first, again, other = deal(sizes, 250e3, 1), deal(sizes, 250e3, 1), deal(sizes, 250e3, 2)
    assert len(first) == 4
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    for part in first:  # the mean of 2,500 of 10,000 positions, within 4 standard errors
        assert abs(part.mean() - 5_000) < 4 * 2_887 / 50


@pytest.mark.parametrize("sizes", [[], [5], [10**9, 10**9, 1]])
def test_few_and_huge_ones(sizes):
    parts = deal(np.array(sizes, dtype=np.int64), 1e6, seed=0)
    assert all(len(part) for part in parts)
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))


def test_tasks_hold_the_version_and_tell_wholes_from_segments(tone_catalog):
    with Catalog(tone_catalog) as catalog:
        version_id = catalog.version().version_id
        planned = plan_shards(catalog, version_id, "original", 1e6)
        made = list(tasks(catalog, version_id, "original", planned))
        rows = [row for task in made for row in task.rows]
        assert [task.path for task in made] == [shard.path for shard in planned]
        assert {row.utterance.utterance_id for row in rows} == {u.utterance_id for u in catalog.utterances()}
        assert all(task.path.startswith(row.utterance.split) for task in made for row in task.rows)
        assert all(row.is_whole for row in rows)
        keys = [task.key for task in tasks(catalog, version_id, "flac", planned)]
        assert not set(keys) & {task.key for task in made}
