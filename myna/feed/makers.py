"""Processes of this machine that make batches, each at the end of a pipe of its own.

A pool's shared queue would not do: a process killed while it writes leaves half a batch there, and whoever reads waits
for the rest for ever. A pipe of one's own ends with the process.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from myna.data.workers import begin_worker
from myna.feed.payload import to_bytes

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from myna.samples import Batch


class Work(Protocol):
    """Batches by number: `TrainingBatches`, `EvaluationBatches`."""

    def make(self, number: int) -> Batch:
        """The batch of a number."""

    def audio_seconds(self, number: int) -> float:
        """Padded audio in it, without making it."""


class MakerDiedError(Exception):
    """A process died over a batch."""


class _Maker(NamedTuple):
    process: BaseProcess
    connection: Connection


class Makers:
    """`count` processes; a thread for each of them waits for what it makes."""

    def __init__(self, work: Work, count: int) -> None:
        self._makers = [_start(work) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Maker] = queue.SimpleQueue()
        for maker in self._makers:
            self._idle.put(maker)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="myna-makers")

    def submit(self, number: int) -> Future[bytes]:
        """Have a batch made, after those asked for before; `MakerDiedError` when its process died."""
        return self._threads.submit(self._make, number)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for maker in self._makers:
            maker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for maker in self._makers:
            maker.process.join()
            maker.connection.close()

    def _make(self, number: int) -> bytes:
        maker = self._idle.get()
        try:
            maker.connection.send(number)
            outcome: bytes | Exception = maker.connection.recv()
        except (EOFError, OSError) as error:
            raise MakerDiedError(f"process {maker.process.pid} died over batch {number}") from error
        finally:
            self._idle.put(maker)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _start(work: Work) -> _Maker:
    context = multiprocessing.get_context("fork")  # the list of utterances may be large, and is shared that way
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()  # so that the end of that process is the end of the pipe
    return _Maker(process, ours)


def _serve(connection: Connection, work: Work) -> None:
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole group: the trainer still needs batches
    torch.set_num_threads(1)
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        try:
            outcome: bytes | Exception = to_bytes(work.make(number))
        except Exception as error:  # told to whoever asked
            outcome = error
        connection.send(outcome)
