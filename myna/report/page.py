"""Templates and what they print numbers with. Everything is escaped: transcripts and paths are what others wrote."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from myna.intervals import LEVEL

if TYPE_CHECKING:
    from myna.intervals import Interval
    from myna.report.folder import RunFolder


def render(template: str, **content: Any) -> str:
    """A page of HTML that loads nothing: style and pictures stand in it, scripts are in none.

    Args:
        template: file in `templates/`.
        content: what it shows.
    """
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "drawn": drawn,
        "evaluate_command": evaluate_command,
    }
    return environment


def percent(share: float) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.2f} %"


def interval(value: Interval | None) -> str:
    """From where to where."""
    return "unknown" if value is None else f"{100 * value.low:.2f} to {100 * value.high:.2f} %"


def drawn(value: Interval | None) -> str:
    """What an interval was made from."""
    if value is None:
        return ""
    return f"{100 * LEVEL:g} % intervals, drawn by {value.units:,} {value.unit}{'s' if value.units != 1 else ''}"


def evaluate_command(run: RunFolder) -> str:
    """What makes an evaluation of a run, for a shell."""
    db = str(run.setting("data", "db") or "catalog.db")
    return shlex.join(["myna", "evaluate", str(run.path), "--db", db])
