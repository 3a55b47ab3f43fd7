"""What a feed is: the place the trainer takes its batches from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from myna.samples import Batch


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """How full a feed is and how fast it fills."""

    ready_batches: int
    ready_bytes: int
    limit_bytes: int
    producers: int
    audio_seconds_per_second: float = 0.0  # made by all producers together, lately; 0 when unknown


class Feed(Protocol):
    """Batches made ahead of the trainer, in a container that never overflows.

    A rank takes the numbers that fall to it in order, from any start: n, n + world_size, n + 2 * world_size, ...
    Taking a number frees it and all before it.
    """

    def take(self, number: int) -> Batch:
        """The batch of a number; waits until it is there.

        Raises:
            TrainingError: nobody makes it, or the container is lost for good.
        """

    def status(self) -> FeedStatus:
        """How things stand."""

    def finish(self) -> None:
        """No batch is needed any more, even if some were planned: producers may go home."""

    def close(self) -> None:
        """Stop the producers that this feed started, and let go of everything."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
