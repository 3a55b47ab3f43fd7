"""What a person reads of `myna shard`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from myna.data.shards.verify import VerifyReport
    from myna.data.shards.write import ShardReport

SHOWN_ROWS = 20  # named one by one; --json lists all


def render_shards(report: ShardReport) -> RenderableType:
    """The outcome of writing."""
    kept = report.shards - report.made
    lines = [
        f"Dataset version {report.version} as {report.shards:,} shards in {report.place}: {report.made:,} made, "
        f"{kept:,} there already",
        f"{report.utterances:,} utterances, {report.seconds / 3600:,.2f} hours, {report.bytes / 1e6:,.1f} MB, "
        f"{'original audio' if report.audio == 'original' else '16 kHz flac'}",
    ]
    if not report.left_out:
        return "\n".join(lines)
    lines.append(
        f"{len(report.left_out):,} utterances are left out. Mend the files and run it again, or prepare again:"
    )
    table = Table(box=None, header_style="bold", caption=_more(len(report.left_out)))
    for heading in ("file", "reason", "detail"):
        table.add_column(heading, overflow="fold")
    for item in report.left_out[:SHOWN_ROWS]:
        table.add_row(item.audio_path, item.reason, item.detail)
    return Group("\n".join(lines), table)


def render_verified(report: VerifyReport) -> str:
    """The outcome of checking."""
    counted = f"{report.shards:,} shards, {report.utterances:,} utterances, {report.bytes / 1e6:,.1f} MB"
    heading = f"Dataset version {report.version} in {report.place}: {counted}"
    if not report.mismatches:
        return f"{heading}: all as written"
    lines = [f"{heading}: {len(report.mismatches):,} mismatches", *report.mismatches[:SHOWN_ROWS]]
    more = _more(len(report.mismatches))
    lines += [more] if more else []
    return "\n".join([*lines, "Delete the damaged files and run myna shard again: it makes what is missing"])


def _more(count: int) -> str | None:
    return f"and {count - SHOWN_ROWS:,} more: --json lists all" if count > SHOWN_ROWS else None
