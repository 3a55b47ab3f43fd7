"""The course of a traced step: what is born, what dies and in which phase, without sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.plan.memory.ledger import Ledger


@dataclass(frozen=True)
class Script:
    """The course of a step that is the same for every batch.

    Attributes:
        order: (events,) +i storage i is born, -i it dies.
        kinds: (storages + 1,) index into `kind_names`; position 0 belongs to no storage.
        kind_names: what storages are for.
        marks: (position in `order`, phase that begins there).
        step_start: position of the last step: what follows can be done once more.
    """

    order: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    kind_names: tuple[str, ...]
    marks: tuple[tuple[int, str], ...]
    step_start: int

    @classmethod
    def of(cls, ledger: Ledger) -> Script:
        """A ledger without its sizes."""
        from myna.plan.memory.ledger import KINDS  # where ledgers are, torch is

        return cls(ledger.order, ledger.kinds, KINDS, ledger.marks, ledger.step_start)

    def same_course(self, other: Script) -> bool:
        """Whether another batch went the same way."""
        return np.array_equal(self.order, other.order) and np.array_equal(self.kinds, other.kinds)

    def live_bytes(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(events,) bytes in use after each event."""
        live: NDArray[np.int64] = np.cumsum(np.sign(self.order) * sizes[np.abs(self.order)])
        return live

    def parts_at(self, position: int, sizes: NDArray[np.int64]) -> dict[str, int]:
        """Bytes in use after an event, by what they are for."""
        alive = np.bincount(np.abs(self.order[: position + 1]), minlength=len(sizes)) == 1  # born, not dead
        totals = np.bincount(self.kinds[alive], weights=sizes[alive], minlength=len(self.kind_names))
        return {name: int(total) for name, total in zip(self.kind_names, totals, strict=True) if total}

    def phase_at(self, position: int) -> str:
        """The phase an event belongs to."""
        return next((phase for start, phase in reversed(self.marks) if start <= position), self.marks[0][1])

    def peaks(self, sizes: NDArray[np.int64]) -> dict[str, int]:
        """Position of the peak of each phase."""
        live = self.live_bytes(sizes)
        ends = [start for start, _ in self.marks[1:]] + [len(live)]
        best: dict[str, int] = {}
        for (start, phase), end in zip(self.marks, ends, strict=True):
            if end > start:
                position = start + int(live[start:end].argmax())
                if phase not in best or live[position] > live[best[phase]]:
                    best[phase] = position
        return best
