"""The feed whose batches wait in Redis, seen by one rank of the trainer."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from myna.errors import FeedError
from myna.feed.payload import from_bytes
from myna.feed.protocol import FeedStatus
from myna.feed.redis.connection import place_of
from myna.feed.redis.container import PATIENCE_SECONDS, Container

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from myna.feed.spec import FeedSpec
    from myna.samples import Batch

AHEAD = 2  # batches fetched and decoded before they are asked for
HEARTBEATS_PER_LEASE = 4
LISTENS_EVERY_SECONDS = 0.5  # a wait for a batch is broken off this often to see whether the feed was closed
LONELY_SECONDS = 15.0  # a wait without any producer is told after so long

logger = logging.getLogger(__name__)


class RedisFeed:
    """Batches that producers, on any host, put into a container in Redis.

    One thread fetches and decodes what comes next, another renews the run and frees what has been used.

    Args:
        url: of the server, as `connect` takes it.
        run: name of the run.
        spec: what batches are made from.
        start: the first number of this rank that is still needed.
        limit_bytes: that the container may take.
        rank: of this process; build the feed of rank 0 first, the others behind a barrier.
        lease_seconds: a producer that is silent for so long has lost its claim.
        expire_seconds: the container's keys go so long after the last sign of life.
        patience_seconds: how long the server may be away.
        has_own_producers: whether those that the run started still work; None when it started none.

    Raises:
        FeedError: the server cannot be used, or another trainer has the run.
    """

    def __init__(
        self,
        url: str,
        run: str,
        spec: FeedSpec,
        *,
        start: int,
        limit_bytes: int,
        rank: int = 0,
        lease_seconds: float = 10.0,
        expire_seconds: float = 3600.0,
        patience_seconds: float = PATIENCE_SECONDS,
        has_own_producers: Callable[[], bool] | None = None,
    ) -> None:
        self._has_own_producers = has_own_producers
        self.place, self.run, self.rank = place_of(url), run, rank
        self._source = "--shards SHARDS" if spec.by_shard else "--db CATALOG"
        self.total, self.world_size, self.limit_bytes = spec.total, spec.world_size, limit_bytes
        self.taken, self.waited_seconds = 0, 0.0
        self._container = Container(url, run, patience_seconds=patience_seconds)
        try:
            self._container.open(
                spec,
                start=start,
                limit_bytes=limit_bytes,
                lease_seconds=lease_seconds,
                expire_seconds=expire_seconds,
                rank=rank,
            )
        except BaseException:
            self._container.close()
            raise
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()  # from `_next` on
        self._next = start  # the number to be asked for next
        self._used = self._released = start  # this rank has used everything below it, and Redis knows
        self._waits_since: float | None = None
        self._is_lonely = False
        self._error: Exception | None = None
        self._closed = False
        self._failed = False
        self._heartbeat_seconds = lease_seconds / HEARTBEATS_PER_LEASE
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"feed-{work.__name__}", daemon=True)
            for work in (self._fetch, self._keep)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, number: int) -> Batch:
        """The batch of a number, once it is there; all of this rank before it are freed.

        Raises:
            FeedError: it cannot be made, another trainer took the run over, or the server stayed away.
        """
        with self._changed:
            if number < self._used:
                raise FeedError(
                    f"expected batch {self._used} or a later one; batch {number} is used", "Resume the run."
                )
            if number != self._next:
                self._batches.clear()
                self._next = number
            self._used = max(self._used, number)
            self._changed.notify_all()
            began = self._waits_since = time.monotonic()
            while not self._batches and self._error is None:
                self._changed.wait(LONELY_SECONDS)
                if not self._batches and time.monotonic() - began >= LONELY_SECONDS:
                    self._say_lonely()
            self._waits_since = None
            self.waited_seconds += time.monotonic() - began
            if self._error is not None:
                raise self._error
            batch = self._batches.popleft()
            self._next += self.world_size
            self.taken += 1
            self._changed.notify_all()
        return batch

    def status(self) -> FeedStatus:
        """How full the container is and how fast it fills."""
        status = self._container.status()
        return status.summary() if status else FeedStatus(0, 0, self.limit_bytes, 0, 0.0)

    def finish(self) -> None:
        """The run has ended, perhaps early: on `close`, producers go home."""
        with self._changed:
            self._next = self.total
            self._batches.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the run. When the last batch was taken and nothing failed, producers go home."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(2 * LISTENS_EVERY_SECONDS)
        finished = self._next >= self.total and not self._failed and self._error is None
        self._container.close(finished=finished)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = kind is not None
        self.close()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # told to whoever takes next
            with self._changed:
                if not self._closed:
                    self._error = error
                self._changed.notify_all()

    def _fetch(self) -> None:
        """Take what comes next, up to `AHEAD` batches."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or (len(self._batches) < AHEAD and self._to_fetch < self.total)
                )
                if self._closed:
                    return
                number = self._to_fetch
            payload = self._container.take(number, LISTENS_EVERY_SECONDS)
            if payload is None:
                continue
            batch = from_bytes(payload)
            with self._changed:
                if number == self._to_fetch:  # else the trainer has gone elsewhere
                    self._batches.append(batch)
                    self._changed.notify_all()

    @property
    def _to_fetch(self) -> int:
        return self._next + len(self._batches) * self.world_size

    def _keep(self) -> None:
        """Release what was used, and send heartbeats."""
        due = time.monotonic()
        looks = deque([(due, 0.0)], maxlen=HEARTBEATS_PER_LEASE + 1)  # of the last lease: when, seconds waited by then
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._used > self._released, max(0.0, due - time.monotonic())
                )
                if self._closed:
                    return
                used = self._used
            if used > self._released:
                self._container.release(used)
                self._released = used
            if self.rank == 0 and time.monotonic() >= due:
                looks.append((time.monotonic(), self._waited_by_now()))
                (began, waited_before), (now, waited) = looks[0], looks[-1]
                share = (waited - waited_before) / max(now - began, 1e-9)
                self._container.heartbeat({"taken": self.taken, "wait_share": min(1.0, share)})
            if time.monotonic() >= due:
                due = time.monotonic() + self._heartbeat_seconds

    def _waited_by_now(self) -> float:
        with self._changed:
            now = time.monotonic()
            return self.waited_seconds + (now - self._waits_since if self._waits_since is not None else 0.0)

    def _say_lonely(self) -> None:
        if self._container.producers > 0:
            self._is_lonely = False
        elif self._has_own_producers is not None and not self._has_own_producers():
            raise FeedError(
                "the producers that this run started have ended, and no other is alive",
                "They said why, above. Mend that, then go on with --resume.",
            )
        elif not self._is_lonely:
            self._is_lonely = True
            logger.warning(
                "The trainer waits, and no producer is alive. Start one: myna feed --redis %s --run %s %s",
                self.place,
                self.run,
                self._source,
            )
