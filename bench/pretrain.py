"""Does pre-training lower the WER that 100 labelled clips give? Spoken digits, with and without, seed by seed.

Usage: python bench/pretrain.py CORPUS OUT [--pretrain-steps 2000] [--steps 300] [--seeds 3]

CORPUS is the folder of digits_en. The audio of its training and validation speakers is learned from without
transcripts; ten clips of each digit, drawn with a fixed seed from the training speakers, are then learned with them, by
the preset `digits` and for the same number of steps with and without what was pre-trained. Validation chooses
checkpoints; scores on the test speaker are printed, with intervals over utterances.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from myna.data.catalog import Catalog
from myna.feed.evaluation import EvaluationBatches
from myna.intervals import compare
from myna.metrics import score
from myna.models.build import load_recognizer
from myna.models.recognizer import DecodeOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIPS_PER_WORD = 10
PRETRAINING = [
    "training.objective=pretrain",
    "training.metric_for_best_model=loss",
    "training.learning_rate=1e-3",
    "training.effective_batch_size=32",
    "pretrain.mask_time_length=3",  # 120 ms: a clip has eleven frames
    "pretrain.num_negatives=20",
    "pretrain.num_codevectors_per_group=64",
    "pretrain.codevector_dim=64",
    "pretrain.proj_codevector_dim=64",
]


def myna(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "myna", *arguments], check=True, stdout=subprocess.DEVNULL)


def write_manifests(corpus: Path, out: Path) -> None:
    """`labelled.csv`: 100 training clips, validation and test; `audio.csv`: all but test, without transcripts."""
    with (corpus / "metadata.csv").open(newline="") as file:
        rows = [{**row, "file_path": str(corpus / row["file_path"])} for row in csv.DictReader(file)]
    rng = random.Random(0)
    train = [row for row in rows if row["split"] == "train"]
    words = sorted({row["transcript"] for row in train})
    few = [
        row for word in words for row in rng.sample([row for row in train if row["transcript"] == word], CLIPS_PER_WORD)
    ]
    labelled = few + [row for row in rows if row["split"] != "train"]
    audio = [{k: v for k, v in row.items() if k != "transcript"} for row in rows if row["split"] != "test"]
    for name, chosen in (("labelled", labelled), ("audio", audio)):
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(chosen[0]))
            writer.writeheader()
            writer.writerows(chosen)


def fine_tune(out: Path, name: str, steps: int, seed: int, *overrides: str) -> NDArray[np.float64]:
    """Word errors of each utterance of the test speaker, one word each, in the order of IDs."""
    run, rhythm = out / f"{name}-{seed}", max(1, steps // 5)
    settings = [f"training.{key}_steps={rhythm}" for key in ("eval", "save")]
    settings += [f"data.db={out / 'labelled.db'}", f"training.output_dir={run}", f"training.max_steps={steps}"]
    myna("train", "-c", "digits", *settings, f"training.seed={seed}", *overrides)
    with Catalog(out / "labelled.db") as catalog:
        test = list(catalog.utterances(catalog.version().version_id, "test"))
    recognizer, heard = load_recognizer(run), {}
    for batch in EvaluationBatches(test, recognizer.processor, 30.0).in_order(0):
        found = recognizer.decode(batch, DecodeOptions())
        heard |= {name: transcript.text for name, transcript in zip(batch.utterance_ids, found, strict=True)}
    scores = [score(row.transcript, heard[row.utterance_id], row.language) for row in test]
    errors = np.array([each.normalized_words.rate for each in scores])
    print(f"{name}, seed {seed}: WER {100 * errors.mean():.1f} %", flush=True)
    return errors


def interval(values: NDArray[np.float64]) -> str:
    """Mean of utterances of one word each, and its 95 % interval, in points."""
    nothing = np.zeros_like(values)
    found = compare(nothing, values, np.ones_like(values), [""] * len(values)).interval
    return f"{100 * values.mean():.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True)
    write_manifests(asked.corpus.resolve(), out)
    for name, more in (("labelled", []), ("audio", ["data.transcripts=optional"])):
        myna(
            "prepare", str(out / f"{name}.csv"), "--db", str(out / f"{name}.db"), "data.min_duration_seconds=0.1", *more
        )
    run = [f"data.db={out / 'audio.db'}", f"training.output_dir={out / 'pretrained'}"]
    myna("train", "-c", "digits", *PRETRAINING, *run, f"training.max_steps={asked.pretrain_steps}")
    start = {"without": [], "with": [f"model.pretrained={out / 'pretrained'}"]}
    errors = {
        name: np.mean([fine_tune(out, name, asked.steps, seed, *more) for seed in range(asked.seeds)], axis=0)
        for name, more in start.items()
    }
    for name, values in errors.items():
        print(f"WER % {name} pre-training, mean of {asked.seeds} seeds: {interval(values)}")
    print(f"points that it lowers WER by: {interval(errors['without'] - errors['with'])}")


if __name__ == "__main__":
    main()
