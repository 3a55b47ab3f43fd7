"""What a producer did, and how fast it has been lately."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

RATE_SECONDS = 30.0  # that rates are averaged over


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    batches: int = 0
    audio_seconds: float = 0.0
    payload_bytes: int = 0
    making_seconds: float = 0.0
    waiting_seconds: float = 0.0  # for a trainer, a number or room

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.batches + other.batches,
            self.audio_seconds + other.audio_seconds,
            self.payload_bytes + other.payload_bytes,
            self.making_seconds + other.making_seconds,
            self.waiting_seconds + other.waiting_seconds,
        )

    @property
    def making_share(self) -> float:
        """Of the time that went by in making and waiting; 0 before any did."""
        elapsed = self.making_seconds + self.waiting_seconds
        return self.making_seconds / elapsed if elapsed else 0.0


class _Mark(NamedTuple):
    clock: float
    audio_seconds: float
    making_seconds: float
    waiting_seconds: float


@dataclass(slots=True)
class Pace:
    """Rates over the last half minute."""

    _marks: deque[_Mark] = field(default_factory=deque)

    def note(self, tally: Tally) -> tuple[float, float]:
        """Audio seconds made per second, and the share of time spent in making; call it now and then."""
        now = _Mark(time.monotonic(), tally.audio_seconds, tally.making_seconds, tally.waiting_seconds)
        self._marks.append(now)
        while len(self._marks) > 2 and self._marks[1].clock < now.clock - RATE_SECONDS:
            self._marks.popleft()
        then = self._marks[0]
        making, waiting = now.making_seconds - then.making_seconds, now.waiting_seconds - then.waiting_seconds
        rate = (now.audio_seconds - then.audio_seconds) / max(now.clock - then.clock, 1e-3)
        return rate, making / (making + waiting) if making + waiting > 0 else tally.making_share
