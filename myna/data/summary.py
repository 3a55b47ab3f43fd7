"""What a person reads of a dataset version: `myna prepare`'s outcome and `myna stats`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from myna.data.catalog import Catalog, DatasetVersion, SplitStatistics

if TYPE_CHECKING:
    from rich.console import RenderableType

    from myna.data.prepare import PrepareReport

SHOWN_REFUSALS = 20  # named one by one; all of them are in the catalog and in --json


@dataclass(frozen=True, slots=True)
class DescribedVersion:
    """A dataset version with its figures."""

    version: DatasetVersion
    splits: dict[str, SplitStatistics]
    refusals: dict[str, int]  # by reason
    refused: tuple[tuple[str, str, str], ...]  # audio path, reason, detail


def describe_version(db: str, prefix: str = "") -> DescribedVersion:
    """Figures of a version.

    Raises:
        DataError: there is no such catalog.
        VersionError: there is no such version.
    """
    with Catalog(db) as catalog:
        version = catalog.version(prefix)
        refusals = catalog.refusals(version.version_id)
        return DescribedVersion(
            version=version,
            splits=catalog.statistics(version.version_id),
            refusals={reason.value: count for reason, count in catalog.refusal_counts(version.version_id).items()},
            refused=tuple((refusal.audio_path, refusal.reason.value, refusal.detail) for refusal in refusals),
        )


def render_report(report: PrepareReport, db: str) -> RenderableType:
    """The outcome of `prepare`."""
    described = describe_version(db, report.version)
    news = "new" if report.is_new else "the same content as before"
    lines = [f"Dataset version {report.version} ({news}): {report.decoded} decoded, {report.cached} known already"]
    return Group("\n".join([*lines, *report.notes]), *_tables(described))


def render_version(described: DescribedVersion) -> RenderableType:
    """The outcome of `stats`."""
    version = described.version
    heading = f"Dataset version {version.version_id}, prepared {version.created_at} from {', '.join(version.sources)}"
    return Group("\n".join([heading, *version.notes]), *_tables(described))


def _tables(described: DescribedVersion) -> list[RenderableType]:
    tables: list[RenderableType] = [_split_table(described.splits)]
    if described.refused:
        tables += [_refusal_counts(described.refusals), _refusal_names(described.refused)]
    return tables


def _split_table(splits: dict[str, SplitStatistics]) -> Table:
    table = Table("split", box=None, header_style="bold")
    for heading in ("utterances", "hours", "mean s", "min s", "max s", "p95 s", "speakers", "words", "MB"):
        table.add_column(heading, justify="right")
    for name, split in splits.items():
        table.add_row(
            name,
            f"{split.utterances:,}",
            f"{split.hours:.2f}",
            *(
                f"{value:.2f}"
                for value in (split.mean_seconds, split.min_seconds, split.max_seconds, split.p95_seconds)
            ),
            f"{split.speakers:,}",
            f"{split.words:,}",
            f"{split.bytes / 1e6:,.1f}",
        )
    return table


def _refusal_counts(refusals: dict[str, int]) -> Table:
    table = Table("set aside", box=None, header_style="bold")
    table.add_column("utterances", justify="right")
    for reason, count in refusals.items():
        table.add_row(reason, f"{count:,}")
    return table


def _refusal_names(refused: tuple[tuple[str, str, str], ...]) -> Table:
    more = len(refused) - SHOWN_REFUSALS
    table = Table(box=None, header_style="bold", caption=f"and {more:,} more: --json lists all" if more > 0 else None)
    for heading in ("file", "reason", "detail"):
        table.add_column(heading, overflow="fold")
    for row in refused[:SHOWN_REFUSALS]:
        table.add_row(*row)
    return table
