"""Producer processes of one host: started, told to stop, and replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
import uuid
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from myna.errors import FeedError, MynaError
from myna.feed.redis.container import Container
from myna.producer.process import PRELOADED, work
from myna.producer.tally import Tally

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from myna.producer.recordings import DataPath

FRUITLESS_DEATHS = 4  # in a row, with no batch made in between: then it is no accident
CLOSE_SECONDS = 30.0  # a batch in hand may take as long
FIRST_REST_SECONDS = 0.2  # before the replacement of a process that died fruitlessly; doubled each time

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Member:
    """One process and what it told."""

    producer_id: str
    process: BaseProcess
    connection: Connection
    tally: Tally = field(default_factory=Tally)
    number: int | None = None  # that it makes now
    has_said_goodbye: bool = False


class Crew:
    """Processes that produce for one run.

    Args:
        url: of Redis.
        run: name of the run.
        data: where the recordings are.
        processes: how many there are, as long as nobody calls `stop`.
        patience_seconds: how long the server may be away.
    """

    def __init__(self, url: str, run: str, data: DataPath, processes: int, patience_seconds: float) -> None:
        self.url = url
        self.run = run
        self.data = data
        self.processes = processes
        self.patience_seconds = patience_seconds
        self.deaths = 0
        self.is_finished = False  # the run is
        self._past = Tally()  # of processes that are no more
        self._members: list[_Member] = []
        self._fruitless = 0
        self._rest_until = 0.0
        self._is_stopping = False
        # A server of processes that imported everything once and has no threads: another producer starts in no time
        # and shares that memory.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOADED])

    @property
    def tally(self) -> Tally:
        """What all did together."""
        return sum((member.tally for member in self._members), self._past)

    @property
    def alive(self) -> int:
        """Processes at work."""
        return len(self._members)

    @property
    def is_over(self) -> bool:
        """Nobody is left and nobody will come."""
        return not self._members and (self._is_stopping or self.is_finished)

    def stop(self) -> None:
        """Have every process finish its batch and end."""
        self._is_stopping = True
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.send("stop")

    def kill(self) -> None:
        """End at once."""
        self._is_stopping = True
        for member in self._members:
            member.process.kill()

    def attend(self, seconds: float) -> None:
        """Start who is missing, then listen for so long or until something happened.

        Raises:
            MynaError: a process said why it cannot produce; or processes die again and again.
        """
        now = time.monotonic()
        if not (self._is_stopping or self.is_finished):
            if now >= self._rest_until:
                self._members += [self._start() for _ in range(self.processes - len(self._members))]
            else:
                seconds = min(seconds, self._rest_until - now)
        for ready in wait([member.connection for member in self._members], seconds):
            self._listen(next(member for member in self._members if member.connection is ready))

    def close(self) -> None:
        """End all processes: those that do not go by themselves within moments are killed."""
        self.stop()
        deadline = time.monotonic() + CLOSE_SECONDS
        for member in self._members:
            member.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()
        for member in self._members:
            member.process.join()
            member.connection.close()
        self._members.clear()

    def _start(self) -> _Member:
        ours, theirs = self._context.Pipe()
        producer_id = uuid.uuid4().hex
        arguments = (theirs, self.url, self.run, self.data, producer_id, self.patience_seconds)
        process = self._context.Process(target=work, args=arguments, name=f"myna-producer-{producer_id[:8]}")
        process.start()
        theirs.close()  # so that the end of that process is the end of the line
        return _Member(producer_id, process, ours)

    def _listen(self, member: _Member) -> None:
        try:
            said = member.connection.recv()
        except (EOFError, OSError):
            self._bury(member)
            return
        if isinstance(said[0], MynaError):
            raise said[0]
        if isinstance(said[0], Tally):
            if said[0].batches > member.tally.batches:
                self._fruitless = 0
            member.tally, member.number = said
        else:
            member.has_said_goodbye = True
            self.is_finished |= said[0]

    def _bury(self, member: _Member) -> None:
        member.process.join()
        member.connection.close()
        self._members.remove(member)
        self._past += member.tally
        if member.has_said_goodbye or self._is_stopping:
            return
        self.deaths += 1
        how = _cause(member.process.exitcode)
        logger.warning("Producer process %s died (%s); another takes its place.", member.process.pid, how)
        self._give_back(member, how)
        self._fruitless += 1
        if self._fruitless >= FRUITLESS_DEATHS + self.processes:
            raise FeedError(
                f"expected producer processes that live; {self._fruitless} died one after the other before they made a "
                f"batch, the last one {how}",
                "Most often memory runs out: start fewer processes. A script must call this under "
                '`if __name__ == "__main__":`.',
            )
        if self._fruitless > 1:
            self._rest_until = time.monotonic() + FIRST_REST_SECONDS * 2**self._fruitless

    def _give_back(self, member: _Member, how: str) -> None:
        """Let another make at once what the dead process had claimed, but not over and over."""
        try:
            container = Container(self.url, self.run, producer_id=member.producer_id, patience_seconds=0)
            with contextlib.closing(container):
                if container.spec(0) is None:
                    return
                if member.number is not None:
                    container.fail(member.number, f"the process that made it died ({how})")
                container.leave()
        except FeedError as error:  # the lease will run out
            logger.debug("Nothing was given back: %s", error)


def _cause(exit_code: int | None) -> str:
    return f"killed by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
