"""Commands that plan, train and feed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from myna.cli.app import AsJson, Layers, app, finish, load, own_output, stderr_console
from myna.errors import ConfigError, MynaError


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
    with own_output():
        from myna.plan.ask import Question, answer

        question = Question(
            gpu, memory_gb, model, hours, mean_seconds, longest_seconds, check, advise, latency, language
        )
        found = answer(load(config, overrides or [], db), question)
    finish(as_json, found.to_json(), str(found))


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
    settings = None if resume else load(config, changes)  # before torch: mistakes are told at once
    with own_output():
        from myna.train.ranks import leave_ranks
        from myna.train.run import is_first_rank, resumed_config
        from myna.train.run import train as run_train

        try:
            result = run_train(settings or resumed_config(resume, changes), resume=resume, console=stderr_console())
        finally:
            leave_ranks()
    if is_first_rank():
        finish(as_json, asdict(result), _train_summary(result))


@app.command(
    epilog="Example: myna feed --redis redis://10.0.0.5:6379/0 --run first --db catalog.db --processes 4.  "
    "Shards: myna feed --run first --shards s3://bucket/speech.  A look: myna feed --run first --watch"
)
def feed(
    run: Annotated[str, typer.Option("--run", help="Name of the run, as `myna train` prints it.")],
    redis: Annotated[
        str,
        typer.Option("--redis", envvar="MYNA_REDIS_URL", help="redis://, rediss:// or unix:// address, or embedded."),
    ] = "redis://localhost:6379/0",
    db: Annotated[str, typer.Option("--db", help="Catalog with the run's dataset version.")] = "",
    shards: Annotated[str, typer.Option("--shards", help="Folder or URL of its shards, instead of a catalog.")] = "",
    audio_root: Annotated[
        list[str] | None, typer.Option("--audio-root", metavar="FROM=TO", help="A folder's name on this host.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, help="That make batches, a core each.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: on a Ray cluster.")] = "local",
    watch: Annotated[bool, typer.Option("--watch", help="Show the container instead of filling it.")] = False,
    once: Annotated[bool, typer.Option("--once", help="With --watch: one look.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make batches for a run, on any host that reaches its Redis; stop and start at any time."""
    if engine not in ("local", "ray"):
        raise ConfigError([f"--engine: expected local or ray; received {engine}"])
    if watch:
        from rich.console import Console

        from myna.producer.watch import watch as run_watch

        figures = run_watch(redis, run, once=once or as_json, console=Console(quiet=as_json))
        finish(as_json, figures)
        return
    with own_output():
        if engine == "ray":
            from myna.producer.ray_engine import run_on_ray as produce
        else:
            from myna.producer.run import run_producers as produce

        report = produce(redis, run, db=db, shards=shards, audio_root=audio_root or [], processes=processes)
    finish(as_json, report.as_dict(), report.as_text())


def _train_summary(result: Any) -> str:
    run = result.run_folder
    if result.stopped_early:
        return f"Stopped at step {result.steps}. Go on with: myna train --resume {run}"
    best = f" Best step {result.best_step}: {result.best_metric:.4f}." if result.best_metric is not None else ""
    return (
        f"Trained {result.steps} steps in {result.seconds / 60:.1f} minutes.{best}\n"
        f"Everything lies in {run}. Score it: myna evaluate {run}. Use it: myna transcribe {run} FILE"
    )
