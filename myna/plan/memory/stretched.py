"""Memory of training on clips that augmentation makes longer than the dataset says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from myna.plan.memory.model import MemoryModel, Peak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.audio.augment.chain import Chain
    from myna.plan.choices.ways import AskMemory
    from myna.plan.request import MemoryRequest


def stretched(ask: AskMemory, augment: Chain, request: MemoryRequest, *, most_seconds: float = math.inf) -> MemoryModel:
    """What `ask` gives, for clips that augmentation may make longer, `most_seconds` at most.

    Evaluation hears them as they are.
    """
    model = ask(request)
    keeps_lengths = augment.longest_seconds(1.0) == 1
    return model if keeps_lengths or request.activity == "evaluate" else StretchedMemory(model, augment, most_seconds)


class StretchedMemory(MemoryModel):
    """A memory model that is asked by the lengths of the dataset and answers for the longest they can become.

    Args:
        model: of the step.
        augment: says how long a clip can become.
        most_seconds: that the model takes.
    """

    def __init__(self, model: MemoryModel, augment: Chain, most_seconds: float = math.inf) -> None:
        super().__init__(model.request, model.parameters, model.trainable, exact=model.exact)
        self.model = model
        self.augment = augment
        self.most_seconds = most_seconds

    def flops(self, clips: int, seconds: float) -> float:
        """Of clips as they are, since they are made longer about as often as shorter."""
        return self.model.flops(clips, seconds)

    def peak(self, clips: int, seconds: float) -> Peak:
        """As the model's, at the greater length."""
        return self.model.peak(clips, self._longest(seconds))

    def reserved(self, clips: int, seconds: float, then: Sequence[tuple[int, float]] = ()) -> int:
        """As the model's, at the greater lengths."""
        return self.model.reserved(clips, self._longest(seconds), self._longer(then))

    def fits(self, clips: int, seconds: float, limit_bytes: int, then: Sequence[tuple[int, float]] = ()) -> bool:
        """As the model's, at the greater lengths."""
        return self.model.fits(clips, self._longest(seconds), limit_bytes, self._longer(then))

    def _longest(self, seconds: float) -> float:
        return min(self.augment.longest_seconds(seconds), self.most_seconds)

    def _longer(self, then: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        return [(clips, self._longest(seconds)) for clips, seconds in then]
