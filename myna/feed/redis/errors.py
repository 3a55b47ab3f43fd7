"""How a producer learns that there is nothing more to make, for now or for good."""

from __future__ import annotations

from myna.errors import FeedError


class RunGoneError(FeedError):
    """The run that a producer works for is not there: not yet, no more, or another was published in its place."""


class RunDoneError(FeedError):
    """Every batch of the run has been used."""
