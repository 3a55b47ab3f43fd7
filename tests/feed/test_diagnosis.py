"""The bottleneck in words, for known cases."""

from __future__ import annotations

import pytest

from myna.feed.diagnosis import ADD_LOADERS, additional_producers, diagnose


@pytest.mark.parametrize(
    ("wait_share", "producers", "more"),
    [
        (0.34, 4, 3),  # 4 / 0.66 = 6.06
        (0.5, 1, 1),  # twice as fast
        (0.5, 4, 4),
        (0.02, 10, 1),  # 10.2
        (0.99, 2, 6),  # a hundred times as many would be a guess: four times at most
        (1.0, 1, 3),
    ],
)
def test_a_trainer_that_waits_a_share_w_could_use_n_over_one_minus_w_producers(wait_share, producers, more):
    assert additional_producers(wait_share, producers) == more


def test_producers_that_are_idle_half_their_time_count_half():
    assert additional_producers(0.5, 4, making_share=0.75) == 2  # 4 * 0.75 / 0.5 = 6


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"wait_share": 0.34, "producers": 3, "audio_seconds_per_second": 120.4},
            "The trainer waits 34 % of its time: producers are the bottleneck; start about 2 more producer processes "
            "with `myna feed`. They make 120 s of audio a second.",
        ),
        (
            {"wait_share": 0.5, "producers": 1},
            "The trainer waits 50 % of its time: producers are the bottleneck; start about 1 more producer process "
            "with `myna feed`.",
        ),
        (
            {"wait_share": 0.004, "producers": 2, "making_share": 0.2, "fill_share": 0.9},
            "The trainer waits 0 % of its time. Producers wait: the feed is ahead, nothing to add.",
        ),
        ({"wait_share": 0.01, "producers": 2}, "The trainer waits 1 % of its time: nothing to add."),
        (
            {"wait_share": 0.2, "producers": 2, "making_share": 0.3, "fill_share": 0.8},
            "The trainer waits 20 % of its time though batches are ready: the way from the container to the trainer "
            "is the bottleneck.",
        ),
        (
            {"wait_share": 0.2, "producers": 2, "making_share": 0.3, "fill_share": 0.1},
            "The trainer waits 20 % of its time and producers wait for room: the container is too small; raise "
            "feed.max_memory_gb.",
        ),
        (
            {"wait_share": 1.0, "producers": 0},
            "Nobody makes batches: start at least 1 more producer process with `myna feed`.",
        ),
        ({"wait_share": None, "producers": 2}, "Too early to tell what the bottleneck is."),
        (
            {"wait_share": 0.5, "producers": 2, "add": ADD_LOADERS},
            "The trainer waits 50 % of its time: producers are the bottleneck; raise training.dataloader_num_workers "
            "by about 2.",
        ),
    ],
)
def test_the_bottleneck_and_the_remedy_are_named(figures, said):
    assert diagnose(figures.pop("wait_share"), figures.pop("producers"), **figures) == said
