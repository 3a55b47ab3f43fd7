"""700,000 rows (1,000 hours of short clips) through `prepare` and the catalog; prints one JSON line.

The clips are hard links to few files and their measurements are put into the catalog's cache beforehand, so what is
timed is everything but decoding: reading the manifest, looking at each file, checks, texts, duplicates, the version.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from myna.data.catalog import Catalog
from myna.data.clips import Probe, judged_under
from myna.data.prepare import PrepareSettings, prepare

LINKS_PER_FILE = 1000  # file systems allow some ten thousand
WORDS = ["xin", "chào", "thế", "giới", "một", "hai", "ba", "bốn", "năm", "hôm", "nay", "trời", "đẹp", "quá"]


def write_manifest(folder: Path, count: int) -> Path:
    """A CSV of `count` clips without splits, 2,000 speakers, texts of ten words."""
    draws = random.Random(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_path", "transcript", "speaker_id", "language"])
        for number in range(count):
            text = " ".join(draws.choices(WORDS, k=10)).capitalize() + "."
            writer.writerow([clip_name(number), text, f"speaker{number % 2000}", "vi"])
    return folder / "metadata.csv"


def clip_name(number: int) -> str:
    return f"clips/{number // LINKS_PER_FILE:04d}/clip_{number:07d}.wav"


def link_clips(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / clip_name(number)
        if number % LINKS_PER_FILE == 0:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 1000)
            first = path
        else:
            path.hardlink_to(first)


def probes(folder: Path, count: int) -> Iterator[Probe]:
    under = judged_under(30.0)
    for number in range(count):
        path = folder / clip_name(number)
        status = path.stat()
        seconds = 1 + number % 8000 / 1000
        digest = f"{number:064x}"
        yield Probe(str(path), "", status.st_size, status.st_mtime_ns, under, digest, seconds, 0.5, 0.0, True)


def fill_cache(db: Path, folder: Path, count: int) -> None:
    marks = ", ".join("?" * len(Probe._fields))
    with Catalog(db, create=True) as catalog, catalog.transaction():
        catalog.connection.executemany(f"INSERT INTO probes VALUES ({marks})", probes(folder, count))


def timed(figures: dict[str, float], name: str, started: float) -> None:
    figures[name] = round(time.perf_counter() - started, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=700_000)
    count = parser.parse_args().rows
    figures: dict[str, float] = {"rows": count}
    with tempfile.TemporaryDirectory() as name:
        folder, db = Path(name), Path(name) / "catalog.db"
        write_manifest(folder, count)
        link_clips(folder, count)
        fill_cache(db, folder, count)
        for label in ("insert_seconds", "unchanged_seconds"):
            started = time.perf_counter()
            report = prepare([folder], db, PrepareSettings(), workers=1)
            timed(figures, label, started)
            if report.decoded or sum(report.splits.values()) != count:
                raise RuntimeError(f"expected {count} cached clips; received {report}")
        figures["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        with Catalog(db) as catalog:
            started = time.perf_counter()
            loaded = sum(1 for _ in catalog.utterances(split="train"))
            timed(figures, "load_train_seconds", started)
            figures["train_rows"] = loaded
            started = time.perf_counter()
            catalog.statistics()
            timed(figures, "statistics_seconds", started)
        figures["file_mb"] = round(db.stat().st_size / 1e6)
    print(json.dumps({"bench": "catalog", **figures}))


if __name__ == "__main__":
    main()
