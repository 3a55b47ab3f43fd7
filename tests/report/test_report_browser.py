"""The page of a real small run in a real browser: phone and desktop, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, chromium
from rich.console import Console
from tiny_runs import tiny_config

from myna.evaluate.run import evaluate
from myna.report.run import write_comparison, write_report
from myna.train.run import train

PHONE, DESKTOP = 390, 1280
PLAY = """(async () => {
  const players = [...document.querySelectorAll("audio")];
  for (const player of players) { player.muted = true; await player.play(); player.pause(); }
  return players.map(player => player.error === null && player.duration > 0.5);
})()"""
# By keyboard alone: what takes the focus, in order, and whether it can be seen that it has it.
FOCUS = "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tone_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report and a comparison of two runs of a few steps."""
    folder = tmp_path_factory.mktemp("reports")
    runs = [folder / "first", folder / "a second run with a long name that has to be broken somewhere on a phone"]
    for seed, run in enumerate(runs):
        settings = (f"training.output_dir={run}", f"training.seed={seed}", "training.num_train_epochs=2")
        train(tiny_config(tone_catalog, *settings, "training.logging_steps=2"), console=Console(quiet=True))
        evaluate(run, tone_catalog)
    return [write_report(runs[0]).path, write_comparison(*runs).path]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_pages_open_without_errors_and_fit(pages, browser, width, dark):
    for path in pages:
        page = browser.page()
        page.open(path, width, dark=dark)
        assert page.evaluate("innerWidth") == width  # a wider page makes a phone zoom out
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        assert page.evaluate("document.querySelectorAll('figure > svg').length") >= 2
        assert page.errors == []
        assert page.requests == [path.resolve().as_uri()]


def test_every_recording_plays(pages, browser):
    page = browser.page()
    page.open(pages[0], PHONE)
    played = page.evaluate(PLAY)
    assert len(played) > 10
    assert all(played)
    assert page.errors == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(pages, browser):
    page = browser.page()
    page.open(pages[0], DESKTOP)
    reached = []
    for _ in range(14):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.evaluate(FOCUS))
    assert reached[0][0] == "A"  # to the content
    assert {"A", "SUMMARY", "DIV"} <= {tag for tag, _ in reached}  # links, details, tables that scroll
    assert {outline for _, outline in reached} == {"solid"}


def test_print_shows_what_is_folded_and_no_players(pages, browser):
    page = browser.page()
    page.open(pages[0], DESKTOP, dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    assert page.evaluate("getComputedStyle(document.querySelector('audio')).display") == "none"
    assert page.evaluate("document.querySelector('#worst details dl').checkVisibility({contentVisibilityAuto: true})")
