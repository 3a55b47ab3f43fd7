"""A producer as a process of its own; light, since the process that starts it imports this too."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

from myna.errors import FeedError, MynaError
from myna.feed.redis.container import Container

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from myna.producer.recordings import DataPath
    from myna.producer.worker import Producer

PRELOADED = "myna.producer.worker"  # imported once for all processes


def work(connection: Connection, url: str, run: str, data: DataPath, producer_id: str, patience_seconds: float) -> None:
    """A producer as a process of its own, which ends when the other end of the connection says so or is gone.

    It sends what it did and the number in hand as they change, and at last whether the run is finished, or the error.
    """
    import torch

    from myna.machine import return_freed_memory
    from myna.producer.worker import Producer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides what ends
    torch.set_num_threads(1)
    return_freed_memory()

    def tell(*what: object) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(what)

    try:
        container = _reach(connection, url, run, producer_id, patience_seconds)
        if container is None:
            return
        producer = Producer(container, data, tell)
        signal.signal(signal.SIGTERM, lambda *_: producer.stop())
        threading.Thread(target=_obey, args=(connection, producer), daemon=True).start()
        try:
            tell(producer.run())
        finally:
            container.close()
    except MynaError as error:
        tell(error)


def _reach(connection: Connection, url: str, run: str, producer_id: str, patience_seconds: float) -> Container | None:
    """The run's container, as soon as its server answers; None when told to stop before.

    Raises:
        FeedError: it does not answer for too long.
    """
    last_moment, pause_seconds = time.monotonic() + patience_seconds, 0.1
    while True:
        try:
            return Container(url, run, producer_id=producer_id, patience_seconds=patience_seconds)
        except FeedError:
            if time.monotonic() > last_moment:
                raise
        if connection.poll(pause_seconds):
            return None
        pause_seconds = min(2 * pause_seconds, 5.0)


def _obey(connection: Connection, producer: Producer) -> None:
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    producer.stop()
