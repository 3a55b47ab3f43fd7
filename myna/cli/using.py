"""Commands that use a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from myna.cli.app import AsJson, BeamWidth, Database, Language, ModelPath, app, finish, own_output, progress_bar


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
