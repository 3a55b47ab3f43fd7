"""A corpus ten times larger than its container: an augmented epoch through 64 MB of Redis, against no container at all.

Prints one JSON line: the most memory that Redis ever used, whether every utterance was used exactly once, and whether
losses and final weights are those of the `local` home and of a single process without a feed, bit for bit.

common_voice_en alone would fill the container but once or twice, so each of its clips is cut into seven utterances that
begin a little later each.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from rich.console import Console

from myna.config import load_config
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.producer.embedded import find_server
from myna.train.loader import Taken
from myna.train.run import train

CORPUS = Path(__file__).resolve().parents[2] / "shared/corpora/common_voice_en"
LIMIT_BYTES = 64_000_000
BYTES_PER_SECOND = 100 * 80 * 2  # of features: frames, mels, half precision
CUTS = 7  # utterances of a clip
LATER_SECONDS = 0.04
PORT = 16399
SETTINGS = [
    *("model.d_model=48", "model.num_encoder_layers=1", "model.d_ff=96", "model.conv_kernel_size=7"),
    *("training.bf16=false", "training.fp16=false", "training.gradient_checkpointing=false"),
    *("training.per_device_train_batch_size=4", "training.per_device_eval_batch_size=4"),
    *("training.gradient_accumulation_steps=1", "training.max_duration_seconds=30"),
    *("training.num_train_epochs=1", "training.eval_strategy=no", "training.save_strategy=epoch"),
    *("training.logging_steps=1", "data.language=en"),
    "augment=[{type: speed}, {type: noise}, {type: volume}, {type: spec_augment}]",
]
HOMES = {
    "single": ["training.dataloader_num_workers=0"],
    "local": ["training.dataloader_num_workers=1"],
    "redis": [
        *("training.dataloader_num_workers=0", "feed.home=redis", f"feed.redis_url=redis://127.0.0.1:{PORT}/0"),
        *("feed.producers=2", f"feed.max_memory_gb={LIMIT_BYTES / 1024**3}"),
    ],
}


def write_corpus(folder: Path, clips: int | None) -> Path:
    """A manifest that names every training clip `CUTS` times, each time from a little later on."""
    with (CORPUS / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"][:clips]
    manifest = folder / "cuts.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_path", "transcript", "split", "offset", "duration"])
        for row in rows:
            for cut in range(CUTS):
                later = round(cut * LATER_SECONDS, 3)
                name = row["file_path"]
                seconds = round(float(row["duration"]) - later - 0.02, 3)
                writer.writerow([CORPUS / name, row["transcript"], "train", later, seconds])
    return manifest


class Sampler(threading.Thread):
    """Reads used_memory again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.client = redis.Redis(port=PORT)
        self.before = int(self.client.info("memory")["used_memory"])
        self.samples: list[int] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        while not self.done.wait(0.01):
            self.samples.append(int(self.client.info("memory")["used_memory"]))

    def figures(self) -> dict[str, float]:
        """In MB."""
        self.done.set()
        self.join()
        peak = int(self.client.info("memory")["used_memory_peak"])
        return {
            "limit_mb": LIMIT_BYTES / 1e6,
            "most_used_mb": round(max(self.samples) / 1e6, 2),
            "peak_by_redis_mb": round(peak / 1e6, 2),
            "empty_mb": round(self.before / 1e6, 2),
            "samples": len(self.samples),
        }


def epoch(db: Path, folder: Path, home: str) -> dict[str, Any]:
    """Train an epoch and tell what came of it."""
    ids: Counter[str] = Counter()
    taken = Taken.__getitem__

    def noting(self: Taken, number: int) -> Any:
        batch = taken(self, number)
        ids.update(batch.utterance_ids)
        return batch

    Taken.__getitem__ = noting  # type: ignore[method-assign]
    try:
        config = load_config([], [*SETTINGS, *HOMES[home], f"data.db={db}", f"training.output_dir={folder / home}"])
        result = train(config, console=Console(quiet=True))
    finally:
        Taken.__getitem__ = taken  # type: ignore[method-assign]
    logged = [json.loads(line) for line in (folder / home / "metrics.jsonl").read_text().splitlines()]
    weights = next((folder / home).rglob("model.safetensors"), None)
    return {
        "losses": [row["loss"] for row in logged if "loss" in row],
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else "",
        "ids": ids,
        "seconds": result.seconds,
        "wait_share": result.feed_wait_share,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, help="of the corpus; all by default")
    clips = parser.parse_args().clips
    if not CORPUS.is_dir():
        sys.exit(f"{CORPUS}: expected the corpus; there is none")
    logging.disable(logging.INFO)
    program = shutil.which("redis-server") or find_server()
    with TemporaryDirectory() as name:
        folder = Path(name)
        server = subprocess.Popen(
            [program, "--port", str(PORT), "--save", "", "--dir", name], stdout=subprocess.DEVNULL
        )
        try:
            db = folder / "catalog.db"
            prepare([str(write_corpus(folder, clips))], str(db), PrepareSettings(min_duration_seconds=0.5), workers=2)
            with Catalog(db) as catalog:
                utterances = list(catalog.utterances(split="train"))
            wanted = Counter(utterance.utterance_id for utterance in utterances)
            corpus_bytes = sum(utterance.duration_seconds for utterance in utterances) * BYTES_PER_SECOND
            time.sleep(0.2)
            sampler = Sampler()
            sampler.start()
            runs = {"redis": epoch(db, folder, "redis")}
            memory = sampler.figures()
            runs |= {home: epoch(db, folder, home) for home in ("local", "single")}
        finally:
            server.kill()
    first = runs["redis"]
    figures = {
        "bench": "overflow",
        "utterances": wanted.total(),
        "times_the_limit": round(corpus_bytes / LIMIT_BYTES, 1),
        "steps": len(first["losses"]),
        **memory,
        "every_utterance_once": all(run["ids"] == wanted for run in runs.values()),
        "same_losses": all(run["losses"] == first["losses"] for run in runs.values()),
        "same_weights": all(run["weights"] == first["weights"] and run["weights"] for run in runs.values()),
        "seconds": {home: round(run["seconds"], 1) for home, run in runs.items()},
        "wait_share": {home: run["wait_share"] for home, run in runs.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
