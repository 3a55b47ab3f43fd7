"""How producers of a host do: a line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from myna.producer.tally import Pace

if TYPE_CHECKING:
    from typing import Self

    from rich.console import Console

    from myna.producer.tally import Tally

SECONDS_BETWEEN_UPDATES = 1.0  # on a terminal
SECONDS_BETWEEN_LINES = 30.0  # elsewhere


class Display:
    """A line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, run: str, place: str) -> None:
        self.console = console
        self.run = run
        self.place = place
        self._pace = Pace()
        self._status = console.status("") if console.is_terminal else None
        self._due = 0.0
        self._batches: int | None = None  # at the last line

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def note(self, text: str) -> None:
        """Say something once."""
        self.console.print(text, soft_wrap=True, highlight=False)

    def show(self, alive: int, total: Tally) -> None:
        """How it goes."""
        if time.monotonic() < self._due:
            return
        rate, making_share = self._pace.note(total)
        text = f"run {self.run}: {alive} producers wait for its trainer at {self.place}"
        if total.batches:
            text = (
                f"run {self.run}: {alive} producers, {total.batches:,} batches made, {rate:.0f} s of audio a "
                f"second, busy {making_share:.0%} of their time"
            )
        if self._status is not None:
            self._status.update(text)
        elif total.batches != self._batches:  # nothing new is no news
            self.note(text)
        self._batches = total.batches
        self._due = time.monotonic() + (SECONDS_BETWEEN_UPDATES if self._status is not None else SECONDS_BETWEEN_LINES)
