"""The entry of the command line: a MynaError becomes one line and exit status 2, a fault of ours 1."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from myna.cli import data, training, using
from myna.cli.app import AsJson, app, finish, own_output, stderr_console
from myna.errors import MynaError

__all__ = ["app", "data", "main", "training", "using"]  # importing the modules adds their commands

REPORT = "This is a fault of Myna, not yours: please report it, with the lines above."


def main() -> None:
    """Run the command line; the console script's entry."""
    try:
        app()
    except MynaError as error:
        print(f"myna: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("myna: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception:
        import traceback

        traceback.print_exc()
        print(f"myna: {REPORT}", file=sys.stderr)
        sys.exit(1)


@app.command(epilog="Example: myna demo")
def demo(
    folder: Annotated[str, typer.Option("--out", help="Where everything is written.")] = "demo",
    as_json: AsJson = False,
) -> None:
    """The whole pipeline on Vietnamese speech it synthesises itself, in a few minutes on two cores."""
    with own_output():
        from myna.demo.run import run_demo

        report = run_demo(folder, console=stderr_console())
    finish(as_json, report.as_dict(), report.as_text())


@app.command(epilog="Example: myna doctor")
def doctor(as_json: AsJson = False) -> None:
    """What this machine has, what is missing and how to get it."""
    from dataclasses import asdict

    from myna.doctor import examine, render

    findings = examine()
    finish(as_json, {"findings": [asdict(finding) for finding in findings]}, render(findings))
