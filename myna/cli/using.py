"""Commands that use a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from myna.cli.app import AsJson, BeamWidth, Database, Language, ModelPath, app, finish, own_output, progress_bar
from myna.errors import ConfigError


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
    with own_output():
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
            progress=progress_bar("decoding"),
        )
    finish(as_json, report.as_dict(), render(report))


@app.command(epilog="Example: myna report runs/first.  Two runs, compared: myna report runs/first runs/second")
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN [RUN]", help="Run folder; with two, they are compared.")],
    out: Annotated[
        str, typer.Option("--out", "-o", help="File; report.html or comparison.html in the last RUN by default.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write one page about a run, or about two compared: curves, scores, worst utterances to hear."""
    if len(runs) > 2:
        raise ConfigError([f"RUN: expected one run folder or two; received {len(runs)}"])
    with own_output():
        from myna.report.run import write_comparison, write_report

        summary = write_report(runs[0], out) if len(runs) == 1 else write_comparison(runs[0], runs[1], out)
    finish(as_json, summary.as_dict(), summary.as_text())


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
    with own_output():
        from myna.transcribe.run import transcribe_files

        outcome = transcribe_files(
            model,
            files,
            language=language,
            beam_width=beam_width,
            formats=[name.strip() for name in formats.split(",")],
            out=out or None,
            progress=progress_bar("transcribing"),
        )
    finish(as_json, outcome.as_dict(), outcome.as_text())
