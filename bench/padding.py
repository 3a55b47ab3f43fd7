"""Share of real audio in training batches on common_voice_en: planned batches against the plain recipes.

Prints one JSON line. Plain recipes: shuffled fixed-size batches padded to the longest clip, and Whisper's 30 s.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from myna.feed.epoch import BatchBudget, plan_epoch

CORPUS = Path(__file__).resolve().parents[2] / "shared/corpora/common_voice_en"
CLIPS = 8  # of the longest bucket
EPOCHS = 5


def share(durations: np.ndarray, steps: list[np.ndarray]) -> float:
    """Real seconds over padded seconds."""
    padded = sum(durations[step].max() * len(step) for step in steps)
    return float(sum(durations[step].sum() for step in steps) / padded)


def main() -> None:
    """Measure and print."""
    if not CORPUS.is_dir():
        sys.exit(f"{CORPUS}: expected the corpus; there is none")
    with (CORPUS / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    durations = np.array([float(row["duration"]) for row in rows])
    budget = BatchBudget.from_longest(float(durations.max()), CLIPS)
    planned, plain = [], []
    for epoch in range(EPOCHS):
        planned.append(share(durations, list(plan_epoch(durations, budget, seed=0, epoch=epoch).steps)))
        order = np.random.default_rng([0, epoch]).permutation(len(durations))
        plain.append(share(durations, np.array_split(order, len(order) // CLIPS)))
    figures = {
        "bench": "padding",
        "clips": len(durations),
        "planned_real_share_min": round(min(planned), 4),
        "planned_real_share_mean": round(float(np.mean(planned)), 4),
        "plain_real_share_mean": round(float(np.mean(plain)), 4),
        "whisper_30s_real_share": round(float(durations.mean() / 30), 4),
        "steps_per_epoch": len(plan_epoch(durations, budget, seed=0, epoch=0).steps),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
