from __future__ import annotations

import pytest
from plan_cases import card

from myna.plan.choices.schedule import data_choices
from myna.plan.profiles.dataset import DatasetProfile
from myna.train.planned import _share_of_this_rank

DATA = DatasetProfile.from_durations([1.0, 2.0])


def workers(monkeypatch, ranks: int, ranks_here: int, **fields) -> int:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks_here))
    return data_choices(_share_of_this_rank(card(cpu_cores=33.0, **fields)), DATA)["dataloader_num_workers"].value


@pytest.mark.parametrize(("ranks", "ranks_here"), [(8, 8), (16, 8)])
def test_each_rank_gets_its_share_of_the_cores_once(monkeypatch, ranks, ranks_here):
    """33 cores for eight cards: four each, on one machine and on two."""
    assert workers(monkeypatch, ranks, ranks_here) == 4


def test_ranks_without_cards_share_the_cores_too(monkeypatch):
    assert workers(monkeypatch, 8, 8, gpu_count=0) == 3  # 4.125, one of them the trainer's
