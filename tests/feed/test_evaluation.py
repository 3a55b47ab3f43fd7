from __future__ import annotations

import pytest
import torch
from clips import SECONDS, SmallProcessor, write_clips

from myna.feed.evaluation import EvaluationBatches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_over_ranks_are_the_split(tmp_path, num_workers):
    utterances = write_clips(tmp_path)
    names: list[str] = []
    for rank in range(2):
        batches = EvaluationBatches(utterances, SmallProcessor(), 2.4, rank=rank, world_size=2)
        names += [name for batch in batches.in_order(num_workers) for name in batch.utterance_ids]
    assert sorted(names) == [f"id{number}" for number in range(len(SECONDS))]


def test_an_empty_split_has_no_batches():
    assert list(EvaluationBatches([], SmallProcessor(), 2.4).in_order(2)) == []


def test_loading_leaves_the_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    list(EvaluationBatches(write_clips(tmp_path), SmallProcessor(), 2.4).in_order(1))
    assert torch.equal(before, torch.get_rng_state())
