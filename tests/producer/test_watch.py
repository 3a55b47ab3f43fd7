"""What `myna feed --watch` shows, of known containers and of a real one."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from containers import RUN, spec_of, trainer
from rich.console import Console

from myna.errors import FeedError
from myna.feed.redis.status import ContainerStatus, ProducerStatus, TrainerStatus
from myna.producer.watch import TrainerPace, as_figures, line, render, watch

MB = 1_000_000
STATUS = ContainerStatus(
    run="first",
    spec_id="0123456789abcdef",
    number=1230,
    total=8000,
    epoch=2,
    step=30,
    steps_per_epoch=100,
    ready_batches=12,
    ready_bytes=5 * MB,
    claimed_batches=2,
    used_bytes=20 * MB,
    limit_bytes=80 * MB,
    budget_bytes=70 * MB,
    high_mark_bytes=60 * MB,
    low_mark_bytes=50 * MB,
    is_full=False,
    is_needed_waiting=False,
    is_done=False,
    failure="",
    is_shared=False,
    producers=(
        ProducerStatus("a", "one", 11, "making", 40, 61.0, 1242, 0.4, {"making_share": 0.96}),
        ProducerStatus("b", "two", 22, "making", 38, 59.0, 1243, 0.9, {"making_share": 0.94}),
    ),
    trainer=TrainerStatus("gpu", 33, 230, 0.34, 600.0, 1.0, {}),
)
SHOWN = """\
run first, epoch 3, step 30 of 100
[##########...............|....|.........] 20.0 of 80.0 MB (marks at 50.0 and 60.0)
12 batches ready (5.0 MB), 2 being made, next 1230 of 8000
trainer gpu (33): 230 batches taken, waits 34% of its time, epoch done in 2.3 min
host  pid  state   batch  made  audio s/s  busy  seen s ago
one   11   making  1242   40    61.0       96%   0.4
two   22   making  1243   38    59.0       94%   0.9
The trainer waits 34 % of its time: producers are the bottleneck; start about 1 more producer process \
with `myna feed`. They make 120 s of audio a second.
"""


def shown(status: ContainerStatus, steps_per_second: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(status, steps_per_second))
    return "\n".join(text.rstrip() for text in console.file.getvalue().splitlines()) + "\n"


def test_a_snapshot_shows_level_producers_trainer_and_the_bottleneck():
    assert shown(STATUS, steps_per_second=0.5) == SHOWN


def test_a_line_for_logs_says_the_same_in_short():
    assert line(STATUS, 0.5).startswith(
        "epoch 3 step 30/100: 12 batches ready (20.0 of 80.0 MB), 2 producers, 120 s of audio a second, trainer waits "
        "34%, epoch done in 2.3 min. The trainer waits 34 % of its time"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_full": True}, "full: producers wait for the low mark"),
        ({"is_shared": True}, "on a server that others use too"),
        ({"failure": "batch 7 could not be made"}, "\nbatch 7 could not be made\n"),
        ({"trainer": None}, "No trainer holds the run; resume it"),
        ({"is_done": True}, "Every batch of the run has been used."),
        ({"producers": ()}, "Nobody makes batches"),
        ({"total": 1240}, "though batches are ready"),  # nothing is left to make
    ],
)
def test_what_matters_is_said(changes, said):
    assert said in shown(replace(STATUS, **changes))


def test_figures_are_plain_data_with_the_diagnosis():
    figures = json.loads(json.dumps(as_figures(STATUS, 0.5)))
    assert (figures["epoch_seconds_left"], figures["producers"][0]["host"]) == (140.0, "one")
    assert figures["diagnosis"].startswith("The trainer waits 34 %")


def test_the_trainers_pace_forgets_what_was_before_a_resume():
    pace = TrainerPace()
    assert pace.note(STATUS, 0.0) is None
    assert pace.note(replace(STATUS, step=40), 5.0) == 2.0
    assert pace.note(replace(STATUS, step=10), 6.0) is None
    assert pace.note(replace(STATUS, epoch=3, step=0), 36.0) == 3.0


def test_a_real_container_is_shown_once_and_a_missing_run_is_an_error(redis_server):
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(FeedError, match=f"run {RUN} is not in Redis"):
        watch(redis_server.url, RUN, once=True, console=console)
    container = trainer(redis_server.url, spec_of(total=30))
    try:
        figures = watch(redis_server.url, RUN, once=True, console=console)
    finally:
        container.close()
    assert (figures["total"], figures["ready_batches"]) == (30, 0)
    assert f"run {RUN}, epoch 1, step 0 of 10" in console.file.getvalue()
    assert "Nobody makes batches" in console.file.getvalue()


def test_watching_ends_with_the_run(redis_server):
    console = Console(file=io.StringIO(), width=200)
    container = trainer(redis_server.url, spec_of(total=30))
    container.close(finished=True)
    assert watch(redis_server.url, RUN, console=console)["is_done"]
    assert console.file.getvalue().count("\n") == 1
