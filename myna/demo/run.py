"""`myna demo`: the whole pipeline on speech that it synthesises itself.

demo/
  corpus/       clips and metadata.csv
  catalog.db    the dataset version made of them
  run/          the trained model, its checkpoints and logs
  scores.json   how well it does on voices and sentences it has never met
"""

from __future__ import annotations

import csv
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from myna.config import load_config
from myna.data.prepare import prepare
from myna.demo.corpus import METADATA_NAME, Corpus, write_corpus
from myna.errors import DataError, TrainingError
from myna.progress import ProgressBar, StageBars
from myna.samples import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.config import Config
    from myna.demo.corpus import Recipe

SHOWN_CLIPS = 3
OWN_RECORDINGS = (
    "With your own recordings: myna prepare FOLDER --db mine.db, then myna train --config conformer --db mine.db"
)


@dataclass(frozen=True, slots=True)
class Example:
    """One test clip and what the model made of it."""

    audio_path: str
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo made, how good it is and where it lies."""

    folder: Path
    clips: dict[str, int]  # by split
    hours: float
    speakers: int
    dataset_version: str
    run_folder: Path
    scores_path: Path
    wer: float  # [0, 1], of the test split, normalised
    cer: float
    seconds: float
    examples: tuple[Example, ...]

    def as_dict(self) -> dict[str, Any]:
        """Every field, for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """What a person reads at the end."""
        lines = [f"reference   {shown.reference}\nhypothesis  {shown.hypothesis}\n" for shown in self.examples]
        lines += [
            f"WER {self.wer:.1%}, CER {self.cer:.1%} on {self.clips['test']} sentences and voices that training "
            f"never met; {self.seconds / 60:.1f} minutes in all.\n",
            f"Everything lies in {self.folder}:",
            f"  corpus       {sum(self.clips.values()):,} clips, {self.hours:.2f} hours, {self.speakers} voices",
            f"  catalog.db   dataset version {self.dataset_version}",
            f"  {self.run_folder.name:<12} the model; transcribe with: myna transcribe {self.run_folder} FILE",
            f"  {self.scores_path.name:<12} scores by speaker and duration, and what was confused",
            OWN_RECORDINGS,
        ]
        return "\n".join(lines)


def run_demo(
    folder: str | Path = "demo",
    *,
    recipe: Recipe | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> DemoReport:
    """Synthesise a corpus, prepare it, train a small Conformer-CTC, score it and transcribe three clips.

    In a folder of an earlier demo the corpus is used again and the run is replaced.

    Args:
        folder: where everything is written.
        recipe: of the corpus; the default gives about an hour of speech.
        overrides: `section.key=value` on top of the preset `demo`.
        console: where progress is shown; standard error by default.

    Raises:
        DataError: the folder holds something else.
        MissingExtraError: the extra `demo` is not installed.
        TrainingError: training was stopped by Ctrl-C.
    """
    from myna.evaluate.run import evaluate
    from myna.train.run import train

    started = time.monotonic()
    folder, console = Path(folder), console or Console(stderr=True)
    run_folder, scores_path = folder / "run", folder / "scores.json"
    places = [f"data.db={folder / 'catalog.db'}", f"training.output_dir={run_folder}"]
    config = load_config(["demo"], [*places, *overrides])
    _clear(run_folder)

    console.print("1/5 Synthesising Vietnamese speech")
    corpus = write_corpus(folder / "corpus", recipe, on_progress=ProgressBar("clips", console))
    console.print(f"2/5 Preparing {sum(corpus.clips.values()):,} clips{' of an earlier demo' * corpus.reused}")
    version = _prepare(corpus, config, console)
    console.print("3/5 Training; valid is what is measured on the way, on voices of its own")
    config = load_config(["demo"], [*places, *overrides, f"data.version={version}"])
    if train(config, console=console).stopped_early:
        raise TrainingError("the demo was stopped in training", f"Go on with: myna train --resume {run_folder}")
    console.print("4/5 Evaluating on the test split")
    scoring = ProgressBar("decoding", console)
    normalized = evaluate(run_folder, config.data.db, output=scores_path, progress=scoring).scores["normalized"]
    console.print(f"5/5 Transcribing {SHOWN_CLIPS} clips\n")
    return DemoReport(
        folder=folder,
        clips=corpus.clips,
        hours=corpus.hours,
        speakers=corpus.speakers,
        dataset_version=version,
        run_folder=run_folder,
        scores_path=scores_path,
        wer=normalized["wer"],
        cer=normalized["cer"],
        seconds=time.monotonic() - started,
        examples=_transcribe(run_folder, corpus),
    )


def _clear(run_folder: Path) -> None:
    """Make room for a new run where an earlier demo left one."""
    if not run_folder.exists():
        return
    if not (run_folder / "config.yaml").is_file():
        raise DataError(f"expected a run of an earlier demo in {run_folder}; it is none", "Choose another folder.")
    shutil.rmtree(run_folder)


def _prepare(corpus: Corpus, config: Config, console: Console) -> str:
    """Check and store the corpus; the dataset version."""
    from myna.models.processors import feasibility

    report = prepare(
        [corpus.folder],
        config.data.db,
        config.prepare_settings(),
        feasibility=feasibility(config),
        progress=StageBars({"decode": "decoding", "store": "storing"}, console),
    )
    for reason, count in report.refusals.items():
        console.print(f"{count} clips set aside: {reason}")
    return report.version


def _transcribe(run_folder: Path, corpus: Corpus) -> tuple[Example, ...]:
    """The first test clip of each of the first few speakers."""
    from myna.transcribe.transcriber import Transcriber

    with (corpus.folder / METADATA_NAME).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    chosen = list({row["speaker_id"]: row for row in reversed(rows)}.values())[-SHOWN_CLIPS:]
    paths = [str(corpus.folder / row["file_path"]) for row in chosen]
    heard = Transcriber(run_folder).transcribe_batch(paths)
    return tuple(
        Example(path, row["transcript"], f"({result.reason})" if isinstance(result, Refusal) else result.text)
        for path, row, result in zip(paths, chosen, heard, strict=True)
    )
