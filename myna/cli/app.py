"""The application that commands are added to, their shared options, and how they print.

Commands print what a person wants on standard output and progress on standard error; with --json, standard
output carries exactly one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from myna.config import Config

app = typer.Typer(
    name="myna",
    help="Trains speech recognisers for any language on the hardware people have.",
    epilog="Try it: myna demo. Your own recordings: myna prepare FOLDER, myna train, myna transcribe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # commands are added by the modules that `main` imports

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Layers = Annotated[
    list[str] | None, typer.Option("--config", "-c", help="Preset or YAML file; may be given again, later ones win.")
]
Database = Annotated[str, typer.Option("--db", help="Catalog of dataset versions.")]
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="Run, checkpoint, local model folder or hub name.")]
Language = Annotated[str, typer.Option("--language", "-l", help="ISO 639 code, such as vi.")]
BeamWidth = Annotated[int, typer.Option("--beam-width", min=1, max=500, help="1 is greedy.")]


def own_output() -> contextlib.redirect_stdout[Any]:
    """Libraries and trackers print as they load and run; standard output is for the result."""
    return contextlib.redirect_stdout(sys.stderr)


def load(layers: list[str] | None, overrides: list[str], db: str = "") -> Config:
    """The configuration of presets, files and overrides."""
    from myna.config import load_config

    return load_config(layers or [], [*overrides, f"data.db={db}"] if db else overrides)


def part_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Sources and `section.key=value` overrides share one list of arguments."""
    overrides = [argument for argument in arguments if re.match(r"[a-z_]+(\.[a-z_]+)+=", argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def stderr_console() -> Console:
    """Where progress is shown."""
    from rich.console import Console

    return Console(stderr=True)


def progress_bar(description: str) -> Any:
    """A bar with a description, called with how much is done of how much."""
    from myna.progress import ProgressBar

    return ProgressBar(description, stderr_console())


def finish(as_json: bool, fields: dict[str, Any], shown: Any = "") -> None:
    """Print one JSON object, or what a person reads."""
    if as_json:
        print(json.dumps(fields, ensure_ascii=False, default=str))
    elif isinstance(shown, str):
        if shown:
            print(shown)
    else:
        from rich.console import Console

        Console().print(shown)
