"""Producers that a run starts for itself, in a process group of their own that ends with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from myna.feed.redis.container import PATIENCE_SECONDS
from myna.producer.embedded import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

CLOSE_SECONDS = 45.0  # longer than producers take to finish what is in hand


class StartedProducers:
    """Producers of this host that belong to this process; see `start_producers`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process that looks after the producers."""
        return self._process.pid

    @property
    def are_alive(self) -> bool:
        """Whether they still work: they end with the run, and where this host cannot make its batches."""
        return self._process.poll() is None

    def close(self) -> None:
        """Have them finish what is in hand and end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_producers(
    url: str,
    run: str,
    count: int,
    *,
    db: str = "",
    shards: str = "",
    audio_root: Sequence[str] = (),
    patience_seconds: float = PATIENCE_SECONDS,
) -> StartedProducers:
    """Start producers for a run of this process.

    They end when the run is finished, at `close`, and when this process is gone, however it died: the pipe that holds
    them then closes. They finish what is in hand and give their claims back, so that a trainer resumed at once finds
    what they made. What they have to say goes to this process's standard error.

    Args:
        url: of Redis, the one of an `EmbeddedRedis` too.
        run: its name.
        count: processes that make batches.
        db: as for `run_producers`, like the rest.
        shards: likewise.
        audio_root: likewise.
        patience_seconds: how long the server may be away.
    """
    if url == EMBEDDED:
        raise ValueError("start an EmbeddedRedis and pass its url")
    options = {
        "run": run,
        "processes": count,
        "db": db,
        "shards": shards,
        "audio_root": list(audio_root),
        "patience_seconds": patience_seconds,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "myna.producer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the trainer, which still needs batches until its step is done
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdin is not None
    # Not as arguments, which everybody on this host can read: the URL may hold a password.
    process.stdin.write(json.dumps({"url": url, **options}).encode() + b"\n")
    process.stdin.flush()
    return StartedProducers(process)
