"""`myna feed`: producers of this host for one run, wherever its trainer is."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from myna.errors import ConfigError
from myna.feed.redis.connection import connect, place_of
from myna.feed.redis.container import PATIENCE_SECONDS
from myna.producer.crew import Crew
from myna.producer.display import Display
from myna.producer.embedded import EMBEDDED, EmbeddedRedis
from myna.producer.recordings import DataPath, parse_audio_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from myna.producer.tally import Tally

LISTENS_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProducerReport:
    """What the producers of a host did."""

    run: str
    is_finished: bool  # the run is; else they were stopped
    batches: int
    audio_seconds: float
    payload_bytes: int
    seconds: float
    processes: int
    making_share: float  # of the processes' time, the rest being waits
    deaths: int  # of processes that were replaced

    @classmethod
    def of(
        cls, run: str, is_finished: bool, total: Tally, seconds: float, processes: int, deaths: int = 0
    ) -> ProducerReport:
        """From what all producers did together."""
        done = (total.batches, total.audio_seconds, total.payload_bytes)
        return cls(run, is_finished, *done, seconds, processes, total.making_share, deaths)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)

    def as_text(self) -> str:
        """What a person reads at the end."""
        ended = f"Run {self.run} is finished" if self.is_finished else "Stopped"
        died = f", {self.deaths} replaced after they died" if self.deaths else ""
        return (
            f"{ended}: {self.batches:,} batches made ({self.audio_seconds / 3600:.2f} h of audio, "
            f"{self.payload_bytes / 1e6:,.0f} MB) in {self.seconds / 60:.1f} minutes by {self.processes} processes, "
            f"busy {self.making_share:.0%} of their time{died}."
        )


class StopWish:
    """How urgently producers should end: 1 finishes what is in hand, 2 ends at once."""

    def __init__(self) -> None:
        self.urgency = 0

    def express(self, *_: object) -> None:
        """Once more; a signal handler too."""
        self.urgency += 1

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM express it, in a program's main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.express) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_producers(
    url: str,
    run: str,
    *,
    db: str = "",
    shards: str = "",
    audio_root: Sequence[str] = (),
    processes: int = 1,
    console: Console | None = None,
    stop: StopWish | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> ProducerReport:
    """Make batches of a run until it is finished, or until Ctrl-C or SIGTERM.

    Waits for the run to appear, and goes on when its trainer is resumed or the server comes back.

    Args:
        url: of Redis; "embedded" starts a private server that lives as long as this call.
        run: its name.
        db: catalog with the run's dataset version.
        shards: folder or URL of shards of that version, instead.
        audio_root: FROM=TO, where the catalog's recordings are called otherwise on this host.
        processes: that make batches, each on one core.
        console: where progress is shown; standard error by default.
        stop: for callers that want to end it themselves.
        patience_seconds: how long the server may be away.

    Raises:
        ConfigError: no data path, or no number of processes.
        FeedError: the server cannot be reached, or this host cannot make the run's batches.
        VersionError: the dataset version is not here.
        MissingExtraError: an embedded server is asked for, and there is none.
    """
    data = DataPath(db, shards, parse_audio_root(audio_root))
    if processes < 1:
        raise ConfigError([f"--processes: expected 1 or more; received {processes}"])
    console, stop = console or Console(stderr=True), stop or StopWish()
    with contextlib.ExitStack() as stack:
        if url == EMBEDDED:
            url = stack.enter_context(EmbeddedRedis()).url
            console.print(f"A private Redis runs here until this ends; train with feed.redis_url={url}")
        connect(url).close()  # a wrong address is told at once, not waited for
        started = time.monotonic()
        crew = Crew(url, run, data, processes, patience_seconds)
        stack.callback(crew.close)
        stack.enter_context(stop.on_signals())
        _attend(crew, stop, stack.enter_context(Display(console, run, place_of(url))))
        total = crew.tally
    return ProducerReport.of(run, crew.is_finished, total, time.monotonic() - started, processes, crew.deaths)


def _attend(crew: Crew, stop: StopWish, display: Display) -> None:
    heard = 0
    while not crew.is_over:
        if stop.urgency > heard:
            heard = stop.urgency
            crew.stop() if heard == 1 else crew.kill()
            display.note(
                "Finishing the batches in hand; once more to end at once." if heard == 1 else "Ending at once."
            )
        crew.attend(LISTENS_SECONDS)
        display.show(crew.alive, crew.tally)
