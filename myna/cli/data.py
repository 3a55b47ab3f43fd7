"""Commands that make and look at data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from myna.cli.app import (
    AsJson,
    Database,
    Layers,
    app,
    finish,
    load,
    own_output,
    part_overrides,
    progress_bar,
    stderr_console,
)
from myna.errors import ConfigError

if TYPE_CHECKING:
    from myna.config import Config


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

    places, overrides = part_overrides(sources)
    settings = load(config, overrides, db)
    report = run_prepare(
        places,
        settings.data.db,
        settings.prepare_settings(),
        feasibility=_feasibility(settings, config, overrides),
        workers=workers or None,
        progress=StageBars({"decode": "decoding and checking", "store": "storing"}, stderr_console()),
    )
    finish(as_json, asdict(report), render_report(report, settings.data.db))


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
    finish(as_json, asdict(described), render_version(described))


@app.command(
    epilog="Example: myna shard --db catalog.db --out shards/.  To S3: myna shard --out s3://bucket/speech.  "
    "Checked again, every byte: myna shard --out shards/ --verify"
)
def shard(
    out: Annotated[str, typer.Option("--out", help="Folder, or a URL such as s3://bucket/prefix.")],
    db: Database = "catalog.db",
    version: Annotated[str, typer.Option("--version", help="Dataset version; the newest by default.")] = "",
    audio: Annotated[
        str, typer.Option("--audio", help="original keeps the files' bytes; flac stores 16 kHz mono.")
    ] = "original",
    shard_mb: Annotated[float, typer.Option("--shard-mb", help="Size of a shard, in 10^6 bytes.")] = 256,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 takes one per core.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing; compare all bytes with their hashes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset version as tar shards in WebDataset format, with an index."""
    from dataclasses import asdict
    from typing import cast, get_args

    from myna.data.shards.layout import AudioKind
    from myna.data.shards.summary import render_shards, render_verified
    from myna.data.shards.verify import verify as run_verify
    from myna.data.shards.write import write_shards

    if verify:
        checked = run_verify(out, workers=workers or None, progress=progress_bar("checking shards"))
        finish(as_json, asdict(checked), render_verified(checked))
        if checked.mismatches:
            raise typer.Exit(2)
        return
    if audio not in get_args(AudioKind):
        raise ConfigError([f"--audio: expected {' or '.join(get_args(AudioKind))}; received {audio}"])
    if not shard_mb > 0:
        raise ConfigError([f"--shard-mb: expected more than 0; received {shard_mb:g}"])
    report = write_shards(
        db,
        out,
        version=version,
        audio=cast(AudioKind, audio),
        shard_mb=shard_mb,
        workers=workers or None,
        progress=progress_bar("writing shards"),
    )
    finish(as_json, asdict(report), render_shards(report))


@app.command(epilog="Example: myna augment clip.wav --out examples/.  One transform: 'augment=[{type: pitch}]'")
def augment(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recording; its first 30 seconds are used.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="section.key=value")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for audio, pictures and index.html.")] = "augmented",
    config: Layers = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Hear and see what each augmentation does: before and after, as audio and as spectrograms."""
    with own_output():
        from myna.audio.augment.chain import Chain
        from myna.augment.examples import write_examples

        settings = load(config, overrides or [])
        report = write_examples(file, out, Chain(settings.augment), seed, settings.features.sample_rate)
    finish(as_json, report.as_dict(), report.as_text())


def _feasibility(settings: Config, layers: list[str] | None, overrides: list[str]) -> Any:
    """The chosen model's own limits, when a model was chosen; loading torch only then."""
    if not layers and not any(override.startswith(("model.", "tokenizer.")) for override in overrides):
        return None
    from myna.models.processors import feasibility

    return feasibility(settings)
