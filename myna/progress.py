"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 30.0


class ProgressBar:
    """Called with (done, total) as work goes on; total may grow while it is still being found out.

    Args:
        description: what is being done, such as "decoding".
        console: where it is shown.
    """

    def __init__(self, description: str, console: Console) -> None:
        self.description = description
        self.console = console
        self._bar: Progress | None = None
        self._last_line = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self.console.is_terminal:
            self._move(done, total)
        elif done < total and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(f"{self.description}: {done} of {total}")

    def _move(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn(self.description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("")
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None


class StageBars:
    """Called with (stage, done, total) as work passes from stage to stage; one bar a stage.

    Args:
        descriptions: what each stage does, by name; stages not listed are not shown.
        console: where they are shown.
    """

    def __init__(self, descriptions: dict[str, str], console: Console) -> None:
        self._bars = {stage: ProgressBar(description, console) for stage, description in descriptions.items()}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage in self._bars and total:
            self._bars[stage](done, total)
