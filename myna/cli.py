"""The command line: one command a stage.

Commands print what a person wants on standard output and progress on standard error; with --json, standard
output carries exactly one JSON object. A MynaError becomes one line and exit status 2, a fault of ours 1.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from myna.errors import MynaError

if TYPE_CHECKING:
    from rich.console import Console

    from myna.config import Config

REPORT = "This is a fault of Myna, not yours: please report it, with the lines above."

app = typer.Typer(
    name="myna",
    help="Trains speech recognisers for any language on the hardware people have.",
    epilog="Try it: myna demo. Your own recordings: myna prepare FOLDER, myna train, myna transcribe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Layers = Annotated[
    list[str] | None, typer.Option("--config", "-c", help="Preset or YAML file; may be given again, later ones win.")
]
Database = Annotated[str, typer.Option("--db", help="Catalog of dataset versions.")]
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="Run, checkpoint, local model folder or hub name.")]
Language = Annotated[str, typer.Option("--language", "-l", help="ISO 639 code, such as vi.")]
BeamWidth = Annotated[int, typer.Option("--beam-width", min=1, max=500, help="1 is greedy.")]


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
    with _own_output():
        from myna.demo.run import run_demo

        report = run_demo(folder, console=_console())
    _finish(as_json, report.as_dict(), report.as_text())


@app.command(epilog="Example: myna doctor")
def doctor(as_json: AsJson = False) -> None:
    """What this machine has, what is missing and how to get it."""
    from dataclasses import asdict

    from myna.doctor import examine, render

    findings = examine()
    _finish(as_json, {"findings": [asdict(finding) for finding in findings]}, render(findings))


@app.command(epilog="Example: myna prepare recordings/ --db catalog.db data.language=vi")
def prepare(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Folders, manifests or hf:NAME; then section.key=value.")
    ],
    db: Annotated[str, typer.Option("--db", help="Catalog to add a dataset version to.")] = "",
    config: Layers = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 takes one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check recordings and transcripts, split them, and keep them as a dataset version."""
    from dataclasses import asdict

    from myna.data.prepare import prepare as run_prepare
    from myna.data.summary import render_report
    from myna.progress import StageBars

    places, overrides = _part_overrides(sources)
    settings = _load(config, overrides, db)
    report = run_prepare(
        places,
        settings.data.db,
        settings.prepare_settings(),
        feasibility=_feasibility(settings, config, overrides),
        workers=workers or None,
        progress=StageBars({"decode": "decoding and checking", "store": "storing"}, _console()),
    )
    _finish(as_json, asdict(report), render_report(report, settings.data.db))


@app.command(epilog="Example: myna stats --db catalog.db")
def stats(
    version: Annotated[str, typer.Argument(help="Dataset version or the start of its ID; the newest by default.")] = "",
    db: Database = "catalog.db",
    as_json: AsJson = False,
) -> None:
    """Statistics of a dataset version: per split, and what was refused and why."""
    from dataclasses import asdict

    from myna.data.summary import describe_version, render_version

    described = describe_version(db, version)
    _finish(as_json, asdict(described), render_version(described))


@app.command(
    epilog="Example: myna plan --config conformer --gpu T4.  Without recordings: "
    "myna plan --model wav2vec2-xls-r-1b --gpu L4 --hours 60 --mean-seconds 8 --longest-seconds 30"
)
def plan(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="section.key=value")] = None,
    config: Layers = None,
    db: Annotated[str, typer.Option("--db", help="Catalog; overrides data.db.")] = "",
    gpu: Annotated[
        str, typer.Option("--gpu", help="Card to plan for, such as T4; cpu for none; else this machine.")
    ] = "",
    memory_gb: Annotated[float, typer.Option("--memory-gb", help="Memory of the device, in 10^9 bytes.")] = 0,
    model: Annotated[str, typer.Option("--model", help="Known size, model folder or hub name.")] = "",
    hours: Annotated[float, typer.Option("--hours", help="Of speech, instead of a catalog.")] = 0,
    mean_seconds: Annotated[float, typer.Option("--mean-seconds", help="Of a clip, with --hours.")] = 8,
    longest_seconds: Annotated[
        float, typer.Option("--longest-seconds", help="Of a clip, with --hours (30 by default) or --check.")
    ] = 0,
    check: Annotated[str, typer.Option("--check", metavar="NxM", help="Do N clips, M micro-batches fit?")] = "",
    advise: Annotated[
        bool, typer.Option("--advise", help="Which family of models suits --hours and the card?")
    ] = False,
    latency: Annotated[str, typer.Option("--latency", help="With --advise: offline or streaming.")] = "offline",
    language: Annotated[
        str, typer.Option("--language-resources", help="With --advise: rich, poor or unseen.")
    ] = "poor",
    as_json: AsJson = False,
) -> None:
    """Predict a run's memory and choose its values, each with its reason, before it starts."""
    with _own_output():
        from myna.plan.ask import Question, answer

        question = Question(
            gpu, memory_gb, model, hours, mean_seconds, longest_seconds, check, advise, latency, language
        )
        found = answer(_load(config, overrides or [], db), question)
    _finish(as_json, found.to_json(), str(found))


@app.command(epilog="Example: myna train --config conformer --config weak training.num_train_epochs=30")
def train(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="section.key=value")] = None,
    config: Layers = None,
    resume: Annotated[str, typer.Option("--resume", metavar="RUN", help="Run folder to go on with.")] = "",
    pretrained_model: Annotated[
        str, typer.Option("--pretrained-model", "--pretrained_model", metavar="MODEL", help="Weights to start from.")
    ] = "",
    db: Annotated[str, typer.Option("--db", help="Catalog; overrides data.db.")] = "",
    as_json: AsJson = False,
) -> None:
    """Train a recogniser on a dataset version; writes a run folder."""
    from dataclasses import asdict

    changes = list(overrides or [])
    changes += [f"model.pretrained={pretrained_model}"] if pretrained_model else []
    changes += [f"data.db={db}"] if db else []
    if resume and config:
        raise MynaError(
            "--resume goes on with the configuration of the run; received --config too",
            "Override single keys by section.key=value.",
        )
    settings = None if resume else _load(config, changes)  # before torch: mistakes are told at once
    with _own_output():
        from myna.train.run import is_first_rank, resumed_config
        from myna.train.run import train as run_train

        result = run_train(settings or resumed_config(resume, changes), resume=resume, console=_console())
    if is_first_rank():
        _finish(as_json, asdict(result), _train_summary(result))


@app.command(epilog="Example: myna evaluate runs/run --db catalog.db --split test")
def evaluate(
    model: ModelPath,
    db: Database = "catalog.db",
    version: Annotated[str, typer.Option("--version", help="Dataset version; the newest by default.")] = "",
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "test",
    language: Language = "",
    beam_width: BeamWidth = 1,
    out: Annotated[str, typer.Option("--out", help="Where scores.json is written.")] = "",
    as_json: AsJson = False,
) -> None:
    """Score a model by free-running decoding: WER, CER, BLEU, chrF, RTF, slices and confusions."""
    with _own_output():
        from myna.evaluate.run import evaluate as run_evaluate
        from myna.evaluate.summary import render
        from myna.models.recognizer import DecodeOptions

        report = run_evaluate(
            model,
            db,
            version=version,
            split=split,
            options=DecodeOptions(language=language, beam_width=beam_width),
            output=out or None,
            progress=_progress("decoding"),
        )
    _finish(as_json, report.as_dict(), render(report))


@app.command(epilog="Example: myna transcribe runs/run interview.mp3 --format srt --out subtitles/")
def transcribe(
    model: ModelPath,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Audio files, or folders of them.")],
    language: Language = "",
    beam_width: BeamWidth = 1,
    formats: Annotated[str, typer.Option("--format", "-f", help="txt, srt, vtt, json; several with commas.")] = "txt",
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the files; else text is printed.")] = "",
    as_json: AsJson = False,
) -> None:
    """Turn audio into text and subtitles."""
    with _own_output():
        from myna.transcribe.run import transcribe_files

        outcome = transcribe_files(
            model,
            files,
            language=language,
            beam_width=beam_width,
            formats=[name.strip() for name in formats.split(",")],
            out=out or None,
            progress=_progress("transcribing"),
        )
    _finish(as_json, outcome.as_dict(), outcome.as_text())


def _own_output() -> contextlib.redirect_stdout[Any]:
    """Libraries and trackers print as they load and run; standard output is for the result."""
    return contextlib.redirect_stdout(sys.stderr)


def _load(layers: list[str] | None, overrides: list[str], db: str = "") -> Config:
    from myna.config import load_config

    return load_config(layers or [], [*overrides, f"data.db={db}"] if db else overrides)


def _part_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Sources and `section.key=value` overrides share one list of arguments."""
    overrides = [argument for argument in arguments if re.match(r"[a-z_]+(\.[a-z_]+)+=", argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def _feasibility(settings: Config, layers: list[str] | None, overrides: list[str]) -> Any:
    """The chosen model's own limits, when a model was chosen; loading torch only then."""
    if not layers and not any(override.startswith(("model.", "tokenizer.")) for override in overrides):
        return None
    from myna.models.build import feasibility

    return feasibility(settings)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _progress(description: str) -> Any:
    from myna.progress import ProgressBar

    return ProgressBar(description, _console())


def _train_summary(result: Any) -> str:
    run = result.run_folder
    if result.stopped_early:
        return f"Stopped at step {result.steps}. Go on with: myna train --resume {run}"
    best = f" Best step {result.best_step}: {result.best_metric:.4f}." if result.best_metric is not None else ""
    return (
        f"Trained {result.steps} steps in {result.seconds / 60:.1f} minutes.{best}\n"
        f"Everything lies in {run}. Score it: myna evaluate {run}. Use it: myna transcribe {run} FILE"
    )


def _finish(as_json: bool, fields: dict[str, Any], shown: Any = "") -> None:
    """Print one JSON object, or what a person reads."""
    if as_json:
        print(json.dumps(fields, ensure_ascii=False, default=str))
    elif isinstance(shown, str):
        if shown:
            print(shown)
    else:
        from rich.console import Console

        Console().print(shown)
