"""Counts and rates with known values, and the lines that show them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from myna.producer import display, tally
from myna.producer.display import Display
from myna.producer.run import ProducerReport
from myna.producer.tally import Pace, Tally


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(tally, "time", clock)
    monkeypatch.setattr(display, "time", clock)
    return clock


def test_tallies_add_up():
    both = Tally(2, 10.0, 100, 3.0, 1.0) + Tally(1, 5.0, 50, 0.0, 4.0)
    assert both == Tally(3, 15.0, 150, 3.0, 5.0)
    assert both.making_share == 0.375
    assert Tally().making_share == 0.0


def test_the_pace_is_that_of_the_last_half_minute(clock):
    pace = Pace()
    pace.note(Tally())
    clock.now += 20
    assert pace.note(Tally(1, 100.0, 0, 10.0, 10.0)) == (5.0, 0.5)
    clock.now += 20  # the window begins between the first two marks: the first one counts
    assert pace.note(Tally(2, 200.0, 0, 30.0, 10.0)) == (5.0, 0.75)
    clock.now += 20  # now it begins behind the second
    assert pace.note(Tally(2, 200.0, 0, 30.0, 30.0)) == (2.5, 0.5)


def test_where_there_is_no_terminal_a_line_comes_now_and_then_and_only_with_news(clock):
    out = io.StringIO()
    with Display(Console(file=out, width=200), "first", "redis://host") as shown:
        shown.show(2, Tally())
        clock.now += 10
        shown.show(2, Tally(3, 30.0))
        clock.now += 21
        shown.show(2, Tally(3, 62.0, 0, 24.0, 8.0))
        clock.now += 31
        shown.show(2, Tally(3, 62.0, 0, 24.0, 8.0))
    assert out.getvalue().splitlines() == [
        "run first: 2 producers wait for its trainer at redis://host",
        "run first: 2 producers, 3 batches made, 2 s of audio a second, busy 75% of their time",
    ]


def test_a_report_says_what_was_done_and_what_died():
    report = ProducerReport.of("first", True, Tally(1200, 7200.0, 3_000_000, 9.0, 1.0), 90.0, 2, deaths=1)
    assert report.as_text() == (
        "Run first is finished: 1,200 batches made (2.00 h of audio, 3 MB) in 1.5 minutes by 2 processes, busy 90% of "
        "their time, 1 replaced after they died."
    )
    assert report.as_dict()["batches"] == 1200
