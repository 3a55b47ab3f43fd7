"""Batches that do not fit into memory: known by their error, cut in halves, remembered."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from myna.errors import ModelError
from myna.machine import usable_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from myna.samples import Batch

T = TypeVar("T")

# What torch and its libraries say, in lower case; a kind of error of their own have only some.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "can't allocate memory",  # DefaultCPUAllocator
    "cannot allocate memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "could not create a primitive",  # oneDNN, which gives no reason
)
NEARLY = 0.9  # of a shape that failed: what is as large is not tried whole
SAME_MEMORY = 0.02  # by how much two machines' memory may differ for what was learned to hold
DEFAULT_RETRIES = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a card or on the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(known in str(error).lower() for known in OUT_OF_MEMORY_MESSAGES)


def first_line(error: BaseException) -> str:
    """What a library said, for people: the kinds of failure above are known by their words alone."""
    return (str(error).splitlines() or [type(error).__name__])[0][:150]


def free_memory() -> None:
    """Let go of what nothing uses any more; to be called outside the `except` block, whose error holds tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Shape:
    """What the memory of a batch depends on."""

    clips: int
    frames: int  # of the padded features
    seconds: float  # of its longest clip

    @classmethod
    def of(cls, batch: Batch) -> Shape:
        """The shape of a batch."""
        clips, frames = batch.features.shape[:2]
        seconds = batch.audio_seconds * float(batch.feature_lengths.max() / batch.feature_lengths.sum())
        return cls(clips, frames, round(seconds, 2))

    def is_nearly(self, other: Shape) -> bool:
        """Whether it takes about as much memory as another shape, or more.

        At equal padded frames in all, longer clips take more; of shorter ones nothing is known.
        """
        padded, other_padded = self.clips * self.frames, other.clips * other.frames
        return padded >= NEARLY * other_padded and self.frames >= NEARLY * other.frames

    def covers(self, other: Shape) -> bool:
        """Whether another shape takes no more memory, for all that is known."""
        return self.clips * self.frames >= other.clips * other.frames and self.frames >= other.frames

    def __str__(self) -> str:
        return f"{self.clips} clip{'s' * (self.clips > 1)} of {self.seconds:.1f} s"


class Piece(NamedTuple):
    """Rows of a batch, and how often they have been tried in vain, in larger pieces or by themselves."""

    batch: Batch
    first_row: int
    failures: int = 0
    is_last_try: bool = False  # a lone clip that has failed once

    def halves(self) -> list[Piece]:
        """The same rows in two pieces."""
        middle, rows = (len(self.batch.weights) + 1) // 2, len(self.batch.weights)
        return [
            self._replace(batch=self.batch.rows(0, middle)),
            self._replace(batch=self.batch.rows(middle, rows), first_row=self.first_row + middle),
        ]


class MemoryLimit:
    """What was learned about the batches that fit; the newest evidence counts.

    A shape that has fitted before may fail once, when something else took memory for a moment, without later batches
    being cut for it.

    Attributes:
        failed: shapes that did not fit; none of them is nearly another.
        fitted: shapes that did; none of them covers another.
        splits: how often a batch was cut because memory ran out.
    """

    def __init__(self) -> None:
        self.failed: list[Shape] = []
        self.fitted: list[Shape] = []
        self.splits = 0

    @property
    def largest(self) -> Shape | None:
        """Of what fitted, the shape of most padded frames."""
        return max(self.fitted, key=lambda shape: shape.clips * shape.frames, default=None)

    def pieces(self, batch: Batch) -> list[Piece]:
        """The batch in as few pieces as are expected to fit, mostly one."""
        pieces = [Piece(batch, 0)]
        while any(self._is_too_large(piece) for piece in pieces):
            pieces = [part for piece in pieces for part in (piece.halves() if self._is_too_large(piece) else [piece])]
        return pieces

    def after_failure(self, piece: Piece) -> list[Piece]:
        """Remember that a piece did not fit, and say what to try in its place: halves, or a lone clip once more."""
        piece = piece._replace(failures=piece.failures + 1)
        if len(piece.batch.weights) == 1:
            return [piece._replace(is_last_try=True)]
        self.learn_failed(Shape.of(piece.batch))
        self.splits += 1
        return piece.halves()

    def learn_failed(self, shape: Shape) -> None:
        """Such a shape, and larger ones, are not tried whole again, unless this one has fitted before."""
        proofs = [known for known in self.fitted if known.covers(shape)]
        if proofs:  # not any more
            self.fitted = [known for known in self.fitted if known not in proofs]
        elif not any(shape.is_nearly(known) for known in self.failed):
            self.failed = [known for known in self.failed if not known.is_nearly(shape)] + [shape]

    def learn_fitted(self, shape: Shape) -> None:
        """Such a shape fits, and so do smaller ones."""
        self.failed = [known for known in self.failed if not shape.covers(known)]
        if not any(known.covers(shape) for known in self.fitted):
            self.fitted = [known for known in self.fitted if not shape.covers(known)] + [shape]

    def merge(self, others: Sequence[MemoryLimit]) -> None:
        """Take up what other ranks learned; splits are not counted."""
        for other in others:
            for shape in other.fitted:
                self.learn_fitted(shape)
        for other in others:
            for shape in other.failed:
                self.learn_failed(shape)

    def state(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "splits": self.splits,
            "failed": [asdict(shape) for shape in self.failed],
            "fitted": [asdict(shape) for shape in self.fitted],
            "memory_bytes": _memory_bytes(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; on a machine of other memory, no more than the count."""
        self.splits = state["splits"]
        if abs(_memory_bytes() / state["memory_bytes"] - 1) <= SAME_MEMORY:
            self.failed = [Shape(**shape) for shape in state["failed"]]
            self.fitted = [Shape(**shape) for shape in state["fitted"]]

    def _is_too_large(self, piece: Piece) -> bool:
        shape = Shape.of(piece.batch)
        has_fitted = any(known.covers(shape) for known in self.fitted)
        return shape.clips > 1 and not has_fitted and any(shape.is_nearly(known) for known in self.failed)


def each_piece(
    batch: Batch,
    run: Callable[[Batch], T],
    limit: MemoryLimit,
    *,
    max_retries: int = DEFAULT_RETRIES,
    name_of: Callable[[str], str] = str,
) -> Iterator[tuple[Batch, T]]:
    """Run a batch whole if it fits, else in pieces; for whatever looks at each row alone, as decoding does.

    Args:
        batch: to run.
        run: what to do with rows of it.
        limit: what is known about batches that fit, to be added to.
        max_retries: how often the same rows may fail.
        name_of: an utterance's ID as people know it.

    Yields:
        Rows in their order, and what `run` gave for them.

    Raises:
        ModelError: a clip does not fit even alone.
    """
    waiting = limit.pieces(batch)
    while waiting:
        piece = waiting.pop(0)
        try:
            outcome = run(piece.batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        else:
            limit.learn_fitted(Shape.of(piece.batch))
            yield piece.batch, outcome
            continue
        free_memory()
        if not may_try_again(piece, max_retries):
            raise ModelError(
                f"out of memory ({reason}): expected {describe(piece.batch, name_of)} to fit; "
                f"{most_that_fitted(limit)}",
                "Free memory, take a smaller model, or leave such clips out.",
            )
        waiting = [*limit.after_failure(piece), *waiting]


def may_try_again(piece: Piece, max_retries: int) -> bool:
    """Whether a piece that failed is cut once more, or as a lone clip tried a second time."""
    return piece.failures < max_retries and not piece.is_last_try


def describe(batch: Batch, name_of: Callable[[str], str] = str) -> str:
    """A batch in words; a lone clip by its name."""
    shape = Shape.of(batch)
    return f"{name_of(batch.utterance_ids[0])} ({shape.seconds:.1f} s) alone" if shape.clips == 1 else str(shape)


def most_that_fitted(limit: MemoryLimit) -> str:
    """The largest batch that fitted, in words."""
    return f"the most that has fitted is {limit.largest}" if limit.largest else "nothing has fitted yet"


def _memory_bytes() -> int:
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else usable_memory()[0]
