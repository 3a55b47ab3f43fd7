"""Every error a user can cause, as one tree.

MynaError                 a user's mistake or broken input; the CLI prints one line and exits with 2
├── ConfigError           the configuration: all its mistakes at once
├── DataError             recordings, transcripts, catalogs
│   ├── SourceError       a source that cannot be understood as a whole
│   ├── AudioError        one recording that cannot be used; carries a refusal reason
│   └── VersionError      a dataset version that is missing or does not match
├── ModelError            a model folder that cannot be loaded or does not fit the request
├── PlanError             a plan whose values cannot hold together, or for which the memory is too small
├── TrainingError         a run that cannot start, resume or go on
├── FeedError             a container of batches that cannot be reached, is another's, or holds something else
├── PlanningUnavailableError  this torch cannot trace a step without its device; a closed formula can still estimate it
└── MissingExtraError     an optional dependency that is not installed

Anything else that escapes is a fault of ours: the CLI asks for a report and exits with 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.samples import RefusalReason


class MynaError(Exception):
    """Something the user can mend.

    Args:
        problem: what is wrong, with what was expected and what was received.
        remedy: what to do about it; a sentence.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem if not remedy else f"{problem.removesuffix('.')}. {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders, and the base class would rebuild them from their message alone."""
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(MynaError):
    """Mistakes in a configuration, collected so that one run shows them all."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''} in the configuration"
        super().__init__(count + "".join(f"\n  - {mistake}" for mistake in mistakes))


class DataError(MynaError):
    """Recordings, transcripts or a catalog that cannot be used."""


class SourceError(DataError):
    """A data source that cannot be understood as a whole."""


class AudioError(DataError):
    """One recording that cannot be used.

    Args:
        reason: the refusal's class, the same words that the catalog stores.
        detail: expected and received, for the person who has to mend the file.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class VersionError(DataError):
    """A dataset version that is missing, or is not the one a run, score or export is bound to."""


class ModelError(MynaError):
    """A model folder that cannot be loaded, or a model that cannot do what was asked."""


class PlanError(MynaError):
    """Values that cannot hold together, or do not fit into memory, collected so that one call shows them all."""

    def __init__(self, conflicts: Sequence[str], remedy: str = "") -> None:
        self.conflicts = tuple(conflicts)
        count = f"{len(conflicts)} conflict{'s' if len(conflicts) != 1 else ''} in the plan"
        super().__init__(count + "".join(f"\n  - {conflict}" for conflict in conflicts), remedy)


class TrainingError(MynaError):
    """A training run that cannot start, resume or go on."""


class FeedError(MynaError):
    """A container of batches that cannot be reached or used, or producers that do not fit the run."""


class PlanningUnavailableError(MynaError):
    """A step cannot be traced on fake tensors here."""


class MissingExtraError(MynaError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package}", f"Install it with: pip install 'myna[{extra}]'")


def _rebuild(kind: type[MynaError], args: tuple[str, ...], fields: dict[str, Any]) -> MynaError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error
