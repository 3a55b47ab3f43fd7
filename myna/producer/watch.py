"""`myna feed --watch`: the container of a run, live."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from myna.errors import FeedError
from myna.feed.diagnosis import diagnose
from myna.feed.redis.connection import place_of
from myna.feed.redis.container import Container

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from myna.feed.redis.status import ContainerStatus, ProducerStatus

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal
BAR_CELLS = 40
PACE_SECONDS = 60.0  # that the trainer's pace is averaged over


class TrainerPace:
    """Steps per second, lately: what the rest of an epoch takes follows from it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()  # (clock, step of the run)

    def note(self, status: ContainerStatus, clock: float) -> float | None:
        """Steps per second; None while too little was seen."""
        step = status.epoch * status.steps_per_epoch + status.step
        if self._looks and step < self._looks[-1][1]:  # the trainer was resumed further back
            self._looks.clear()
        self._looks.append((clock, step))
        while len(self._looks) > 2 and self._looks[1][0] < clock - PACE_SECONDS:
            self._looks.popleft()
        then, before = self._looks[0]
        return (step - before) / (clock - then) if step > before else None


def watch(
    url: str,
    run: str,
    *,
    once: bool = False,
    console: Console | None = None,
    is_enough: Callable[[ContainerStatus], bool] = lambda status: False,
) -> dict[str, Any]:
    """Show a run's container until it is finished or Ctrl-C; on a terminal it stays in place.

    Args:
        url: of Redis.
        run: its name.
        once: show it as it is now, and end.
        console: where it is shown; quiet for callers who want the figures alone.
        is_enough: ends it; for callers that wait for something.

    Returns:
        The last look as plain data, for `--json`.

    Raises:
        FeedError: the server cannot be reached, or, with `once`, the run is not there.
    """
    console = console or Console()
    container = Container(url, run)
    pace, figures = TrainerPace(), dict[str, Any]()
    live = None if once or not console.is_terminal else Live(console=console, refresh_per_second=2)
    due = 0.0
    with contextlib.closing(container), live or contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
        while True:
            status = container.status()
            if status is None:
                missing = f"run {run} is not in Redis at {place_of(url)}"
                if once:
                    raise FeedError(f"expected a run that a trainer has published; {missing}", "Start its training.")
                shown: RenderableType = Text(f"{missing}; waiting for its trainer")
            else:
                rate = pace.note(status, time.monotonic())
                figures = as_figures(status, rate)
                shown = render(status, rate)
            if live is not None:
                live.update(shown)
            elif time.monotonic() >= due:
                due = time.monotonic() + SECONDS_BETWEEN_LINES
                console.print(shown if once or status is None else line(status, rate), soft_wrap=True, highlight=False)
            if once or (status is not None and (status.is_done or is_enough(status))):
                return figures
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return figures


def as_figures(status: ContainerStatus, steps_per_second: float | None = None) -> dict[str, Any]:
    """A look as plain data."""
    return {
        **asdict(status),
        "epoch_seconds_left": seconds_left(status, steps_per_second),
        "diagnosis": diagnosis_of(status),
    }


def render(status: ContainerStatus, steps_per_second: float | None = None) -> RenderableType:
    """A look for people: how full, who makes what, how the trainer does, and what it all means."""
    parts: list[RenderableType] = [
        Text(_headline(status)),
        Text(_level(status)),
        Text(_trainer(status, steps_per_second)),
    ]
    if status.producers:
        parts.append(_producers(status.producers))
    parts.append(Text(status.failure or diagnosis_of(status)))
    return Group(*parts)


def line(status: ContainerStatus, steps_per_second: float | None = None) -> str:
    """A look in one line, for logs."""
    rate = sum(producer.audio_seconds_per_second for producer in status.producers)
    return (
        f"epoch {status.epoch + 1} step {status.step}/{status.steps_per_epoch}: {status.ready_batches} batches ready "
        f"({status.used_bytes / 1e6:.1f} of {status.limit_bytes / 1e6:.1f} MB), {len(status.producers)} producers, "
        f"{rate:.0f} s of audio a second, trainer waits {_share(_wait_share(status))}"
        f"{_eta(status, steps_per_second)}. {status.failure or diagnosis_of(status)}"
    )


def seconds_left(status: ContainerStatus, steps_per_second: float | None) -> float | None:
    """Until the epoch's end at the trainer's pace; None while that is unknown."""
    return (status.steps_per_epoch - status.step) / steps_per_second if steps_per_second else None


def diagnosis_of(status: ContainerStatus) -> str:
    """The bottleneck in words."""
    if status.is_done:
        return "Every batch of the run has been used."
    if status.trainer is None:
        return "No trainer holds the run; resume it, and it goes on with the batches that are ready."
    is_all_made = status.ready_batches >= status.total - status.number
    shares = [float(made.stats["making_share"]) for made in status.producers if "making_share" in made.stats]
    return diagnose(
        _wait_share(status),
        len(status.producers),
        making_share=sum(shares) / len(shares) if shares else 1.0,
        audio_seconds_per_second=sum(producer.audio_seconds_per_second for producer in status.producers),
        fill_share=1.0 if is_all_made else status.used_bytes / max(1, status.budget_bytes),
    )


def _headline(status: ContainerStatus) -> str:
    shared = ", on a server that others use too" if status.is_shared else ""
    return f"run {status.run}, epoch {status.epoch + 1}, step {status.step} of {status.steps_per_epoch}{shared}"


def _level(status: ContainerStatus) -> str:
    """`[#####....|...|....]`: used bytes against the limit, with both marks."""
    limit = max(1, status.limit_bytes)
    cells = ["#" if cell < status.used_bytes / limit * BAR_CELLS else "." for cell in range(BAR_CELLS)]
    for mark in (status.low_mark_bytes, status.high_mark_bytes):
        cells[max(0, min(BAR_CELLS - 1, int(mark / limit * BAR_CELLS)))] = "|"
    waits = ", full: producers wait for the low mark" if status.is_full else ""
    return (
        f"[{''.join(cells)}] {status.used_bytes / 1e6:.1f} of {limit / 1e6:.1f} MB (marks at "
        f"{status.low_mark_bytes / 1e6:.1f} and {status.high_mark_bytes / 1e6:.1f}){waits}\n"
        f"{status.ready_batches} batches ready ({status.ready_bytes / 1e6:.1f} MB), {status.claimed_batches} being "
        f"made, next {status.number} of {status.total}"
    )


def _trainer(status: ContainerStatus, steps_per_second: float | None) -> str:
    if status.trainer is None:
        return "no trainer"
    trainer = status.trainer
    return (
        f"trainer {trainer.host} ({trainer.pid}): {trainer.taken} batches taken, waits {_share(trainer.wait_share)} of "
        f"its time{_eta(status, steps_per_second)}"
    )


def _producers(producers: tuple[ProducerStatus, ...]) -> Table:
    table = Table("host", "pid", "state", "batch", "made", "audio s/s", "busy", "seen s ago", box=None, pad_edge=False)
    for producer in producers:
        table.add_row(
            producer.host,
            str(producer.pid),
            producer.state,
            "" if producer.claimed is None else str(producer.claimed),
            str(producer.made),
            f"{producer.audio_seconds_per_second:.1f}",
            _share(producer.stats.get("making_share")),
            f"{producer.seen_seconds_ago:.1f}",
        )
    return table


def _wait_share(status: ContainerStatus) -> float | None:
    return status.trainer.wait_share if status.trainer is not None else None


def _share(share: float | None) -> str:
    return "?" if share is None else f"{share:.0%}"


def _eta(status: ContainerStatus, steps_per_second: float | None) -> str:
    left = seconds_left(status, steps_per_second)
    return "" if left is None else f", epoch done in {left / 60:.1f} min"
