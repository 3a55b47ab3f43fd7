"""The feed on this machine: processes make the batches ahead of the trainer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from myna.errors import FeedError
from myna.feed.makers import MakerDiedError, Makers
from myna.feed.payload import from_bytes
from myna.feed.protocol import FeedStatus

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from myna.feed.makers import Work
    from myna.samples import Batch

MAX_AHEAD = 8  # batches a process may be ahead: more would only take memory
MAX_DEATHS = 3  # of processes over the same batch
GIB = 1024**3

logger = logging.getLogger(__name__)


class LocalFeed:
    """Batches made by processes of this machine, or by the caller itself.

    A batch waits as bytes. Batches that wait or are being made stay under `limit_bytes` together: what those being
    made will take is known from their seconds. The batch that is asked for is made whatever it takes.

    Args:
        work: makes the batches.
        num_workers: processes; 0 makes each batch when it is asked for.
        total: numbers of the whole run.
        world_size: ranks, each with a feed of its own.
        limit_bytes: of this rank's batches.
    """

    def __init__(
        self, work: Work, *, num_workers: int, total: int, world_size: int = 1, limit_bytes: int = 1 * GIB
    ) -> None:
        self.work = work
        self.num_workers = num_workers
        self.total = total
        self.world_size = world_size
        self.limit_bytes = limit_bytes
        self._makers: Makers | None = None
        self._pending: dict[int, Future[bytes]] = {}  # in order
        self._bytes_per_second = 0.0  # of audio; the most so far

    def take(self, number: int) -> Batch:
        """The batch of a number; those after it are made meanwhile.

        Raises:
            FeedError: the processes that make it die again and again.
        """
        if self.num_workers == 0:
            return self.work.make(number)
        for _ in range(MAX_DEATHS):
            try:
                payload = self._result(number)
                seconds = self.work.audio_seconds(number)
                self._bytes_per_second = max(self._bytes_per_second, len(payload) / max(seconds, 1e-3))
                self._hand_out(number + self.world_size)
            except MakerDiedError:
                logger.warning("A process that makes batches died; its batches are made anew.")
                self.close()
                continue
            return from_bytes(payload)
        raise FeedError(
            f"expected processes that live; {MAX_DEATHS} died one after the other while batch {number} was made",
            "Most often memory ran out: take fewer with training.dataloader_num_workers.",
        )

    def status(self) -> FeedStatus:
        """What waits."""
        waiting = [len(future.result()) for future in list(self._pending.values()) if _is_ready(future)]
        return FeedStatus(len(waiting), sum(waiting), self.limit_bytes, self.num_workers)

    def finish(self) -> None:
        """Nobody else waits for this feed's end; `close` is all it needs."""

    def close(self) -> None:
        """Stop the processes; what they made is lost."""
        self._pending.clear()
        if self._makers is not None:
            self._makers.close()
            self._makers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _result(self, number: int) -> bytes:
        for passed in [pending for pending in self._pending if pending != number]:
            if passed < number or number not in self._pending:  # the trainer began somewhere else
                self._pending.pop(passed).cancel()
        self._hand_out(number)
        payload = self._pending[number].result()
        del self._pending[number]
        return payload

    def _hand_out(self, first: int) -> None:
        """Have the batches from `first` on made, as many as processes and bytes allow."""
        taken = sum(self._bytes(number) for number in self._pending)
        for number in range(
            first, min(self.total, first + self.world_size * MAX_AHEAD * self.num_workers), self.world_size
        ):
            if number in self._pending:
                continue
            taken += self._bytes(number)
            beyond = taken > self.limit_bytes or (not self._bytes_per_second and len(self._pending) >= self.num_workers)
            if beyond and self._pending:
                return
            self._pending[number] = self._started().submit(number)

    def _bytes(self, number: int) -> float:
        future = self._pending.get(number)
        if future is not None and _is_ready(future):
            return len(future.result())
        return self._bytes_per_second * self.work.audio_seconds(number)

    def _started(self) -> Makers:
        if self._makers is None:
            self._makers = Makers(self.work, self.num_workers)
        return self._makers


def _is_ready(future: Future[bytes]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
