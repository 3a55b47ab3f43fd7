"""What a memory planner answers: most memory in use, what the allocator takes, whether a batch fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.plan.request import MemoryRequest


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which most memory is in use."""

    bytes: int
    phase: str  # forward, backward, optimizer, evaluate
    parts: dict[str, int]  # bytes by what they are for; they add up


class MemoryModel(ABC):
    """What one training or evaluation step needs.

    Attributes:
        request: what was asked.
        parameters: count, frozen ones included.
        trainable: count.
        exact: replayed from a traced step; False for a bound that is on the safe side.
    """

    def __init__(self, request: MemoryRequest, parameters: int, trainable: int, *, exact: bool) -> None:
        self.request = request
        self.parameters = parameters
        self.trainable = trainable
        self.exact = exact

    @abstractmethod
    def flops(self, clips: int, seconds: float) -> float:
        """Floating-point operations of one micro-batch, forward and backward."""

    @abstractmethod
    def peak(self, clips: int, seconds: float) -> Peak:
        """Most memory in use at one time, for `clips` clips of `seconds` seconds each."""

    @abstractmethod
    def reserved(self, clips: int, seconds: float, then: Sequence[tuple[int, float]] = ()) -> int:
        """Bytes that the allocator would take: the caching allocator on cuda, the process's heap on cpu.

        Args:
            clips: of the first steps' batches.
            seconds: of each of those clips; the longest batch runs first.
            then: (clips, seconds) of steps after them, in this order; the first batch comes once more after those.
        """

    @abstractmethod
    def fits(self, clips: int, seconds: float, limit_bytes: int, then: Sequence[tuple[int, float]] = ()) -> bool:
        """Whether these steps run where `limit_bytes` can be reserved. The arguments are those of `reserved`."""

    def largest_batch(
        self, seconds: float, limit_bytes: int, at_most: int = 1024, shorter_seconds: Sequence[float] = ()
    ) -> int:
        """The most clips of one length that fit; 0 if not even one does.

        Args:
            seconds: of each clip.
            limit_bytes: what can be reserved.
            at_most: where the search ends.
            shorter_seconds: other lengths that follow, each with as many clips as the same padded seconds allow.
        """

        def fit(clips: int) -> bool:
            then = [(int(clips * seconds / shorter), shorter) for shorter in shorter_seconds]
            return self.fits(clips, seconds, limit_bytes, then)

        if at_most < 1 or not fit(1):
            return 0
        fitting, failing = 1, at_most + 1
        while fitting * 2 < failing:  # doubling
            if not fit(fitting * 2):
                failing = fitting * 2
                break
            fitting *= 2
        while failing - fitting > 1:  # bisection
            middle = (fitting + failing) // 2
            fitting, failing = (middle, failing) if fit(middle) else (fitting, middle)
        return fitting
