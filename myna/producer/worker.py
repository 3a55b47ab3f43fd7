"""One producer: claims numbers, makes their batches and puts them into the container, until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from myna.errors import FeedError
from myna.feed.payload import to_bytes
from myna.feed.redis.errors import RunDoneError, RunGoneError
from myna.producer.rebuild import rebuild
from myna.producer.recordings import check_recordings
from myna.producer.tally import Pace, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from myna.feed.redis.container import Container
    from myna.feed.work import TrainingBatches
    from myna.producer.recordings import DataPath
    from myna.samples import Batch

LISTENS_SECONDS = 0.5  # the longest that a wait for the container goes on before the wish to stop is seen
LAST_SECONDS = 5.0  # once a producer is to stop, neither a full container nor a lost server holds it longer
RENEWALS_PER_LEASE = 4
REPORT_SECONDS = 1.0  # at most, between two
STARTING, MAKING, WAITING = "starting", "making", "waiting"

logger = logging.getLogger(__name__)


class Producer:
    """Makes batches for a run, whoever trains it and however often that starts anew.

    Args:
        container: of the run; this producer's own.
        data: where the recordings are on this host.
        on_progress: called with (what was done so far, the number in hand) when a number is claimed or settled.
    """

    def __init__(
        self,
        container: Container,
        data: DataPath,
        on_progress: Callable[[Tally, int | None], None] = lambda tally, number: None,
    ) -> None:
        self.container = container
        self.data = data
        self.on_progress = on_progress
        self.tally = Tally()
        self.state = STARTING
        self._pace = Pace()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._spec_id = ""
        self._work: TrainingBatches

    def stop(self) -> None:
        """Finish the batch in hand, then end; from any thread, and as often as one likes."""
        if not self._stopping.is_set():
            self._stopping.set()
            threading.Thread(target=self._hasten, daemon=True).start()

    def run(self) -> bool:
        """Produce until the run is finished or `stop` is called; whether the run is finished.

        Raises:
            FeedError: this host cannot make the run's batches, or the server stayed away.
            VersionError: the dataset version is not here.
        """
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            while not self._stopping.is_set():
                try:
                    self._serve()
                except RunGoneError:
                    self.state = WAITING  # for its trainer
            return False
        except RunDoneError:
            return True
        except FeedError:
            if self._stopping.is_set():  # the server is away, and time is up
                return False
            raise
        finally:
            self._ended.set()
            with contextlib.suppress(FeedError):  # the server is away: the lease will run out
                self.container.leave()

    def _serve(self) -> None:
        """Work for one publication of the run."""
        with self._waiting():
            spec = self.container.spec(LISTENS_SECONDS)
        if spec is None:
            return
        if spec.spec_id != self._spec_id:
            self.state = STARTING
            self._work = rebuild(spec, self.data)
            self._spec_id = spec.spec_id
        while not self._stopping.is_set():
            with self._waiting():
                number = self.container.claim(LISTENS_SECONDS)
            if number is not None:
                self.on_progress(self.tally, number)
                self._produce(number)
                self.on_progress(self.tally, None)

    def _produce(self, number: int) -> None:
        batch = self._make(number)
        if batch is None:
            return
        if not batch.weights.any():  # nothing could be read: one broken file, or a folder that went away
            check_recordings(self._work.utterances)
        payload = to_bytes(batch)
        with self._waiting():
            settled = self._put(number, payload)
        if settled:
            self.tally.batches += 1
            self.tally.audio_seconds += batch.audio_seconds
            self.tally.payload_bytes += len(payload)

    def _make(self, number: int) -> Batch | None:
        """The batch, or None after the trainer was told that it cannot be made."""
        self.state = MAKING
        started = time.monotonic()
        try:
            return self._work.make(number)
        except Exception as error:  # of whatever library: it is tried again, elsewhere too, and then the trainer ends
            why = f"{type(error).__name__}: {error}"
            logger.warning("Batch %d could not be made: %s", number, why)
            self.container.fail(number, why)
            return None
        finally:
            self.tally.making_seconds += time.monotonic() - started

    def _put(self, number: int, payload: bytes) -> bool:
        """Hand a batch in; False when there was no room for it before this producer had to end."""
        last_moment = float("inf")
        while time.monotonic() < last_moment:
            if self.container.put(number, payload, LISTENS_SECONDS):
                return True
            if self._stopping.is_set():
                last_moment = min(last_moment, time.monotonic() + LAST_SECONDS)
        return False

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self.state = WAITING
        started = time.monotonic()
        try:
            yield
        finally:
            self.tally.waiting_seconds += time.monotonic() - started

    def _beat(self) -> None:
        """Renew the lease and say how it goes, while the other thread makes batches."""
        while True:
            rate, making_share = self._pace.note(self.tally)
            says = {
                "made": self.tally.batches,
                "audio_seconds_per_second": round(rate, 3),
                "making_share": round(making_share, 4),
                "state": self.state,
            }
            try:
                if self.container.spec_id:
                    self.container.report(says)
            except (RunGoneError, RunDoneError):
                pass  # the other thread sees the same
            except FeedError:
                return  # likewise
            if self._ended.wait(min(REPORT_SECONDS, self.container.lease_seconds / RENEWALS_PER_LEASE)):
                return

    def _hasten(self) -> None:
        """End the wait for a server that is away."""
        while self.state == MAKING and not self._ended.wait(LISTENS_SECONDS):
            pass
        if not self._ended.wait(2 * LAST_SECONDS):
            self.container.close()
