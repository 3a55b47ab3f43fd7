"""Loading from shards against decoding single files and against webdataset with a DataLoader; prints one JSON line.

The same clips, in one process, by the same decoder: batches of a random order from single files, the same batches
from shards (fetch, then decode), and the tars from end to end through webdataset's pipeline and a DataLoader. "read"
leaves the decoding out. Cold: the system's cache of the files is dropped before each round. Rounds take turns; medians.
The index is read for synthetic rows.
Run: python bench/shards.py [--corpora ../shared/corpora] [--rounds 5] [--rows 700000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from myna.audio.addresses import fetch  # noqa: E402
from myna.audio.decode import decode  # noqa: E402
from myna.data.catalog import Catalog  # noqa: E402
from myna.data.prepare import PrepareSettings, prepare  # noqa: E402
from myna.data.shards.index import ShardIndex  # noqa: E402
from myna.data.shards.layout import IndexRow, ShardEntry, ShardManifest, index_lines, tar_path, to_json  # noqa: E402
from myna.data.shards.write import write_shards  # noqa: E402

CLIPS_PER_BATCH = 32
SHARD_MB = 16


def drop_cache(paths: list[str]) -> str:
    """Have the system forget the files' content; how that was done."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return "drop_caches"
    except OSError:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        return "fadvise"


def batches(paths: list[str], windows: np.ndarray | None = None) -> list[list[str]]:
    """A random order; with shard numbers given, random within windows of two shards."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(paths))
    if windows is not None:
        order = order[np.argsort(windows[order] // 2, kind="stable")]
    return [[paths[k] for k in order[i : i + CLIPS_PER_BATCH]] for i in range(0, len(order), CLIPS_PER_BATCH)]


def from_files(planned: list[list[str]], is_decoded: bool) -> Iterator[int]:
    for batch in planned:
        for path in batch:
            yield len(decode(path).samples) if is_decoded else len(Path(path).read_bytes())


def from_shards(planned: list[list[str]], is_decoded: bool) -> Iterator[int]:
    for batch in planned:
        for content in fetch(batch):
            yield len(decode(content).samples) if is_decoded else len(content)


def from_webdataset(tars: list[str], is_decoded: bool) -> Iterator[int]:
    import webdataset

    def sample(item: dict[str, object]) -> int:
        content = next(
            value for key, value in item.items() if key not in ("json", "__key__", "__url__", "__local_path__")
        )
        return len(decode(content).samples) if is_decoded else len(content)

    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000).map(sample)
    for batch in webdataset.WebLoader(dataset, batch_size=CLIPS_PER_BATCH, num_workers=0, collate_fn=list):
        yield from batch


def prepared(corpora: Path, work: Path) -> Path:
    """A catalog of all real speech, every file copied once, so that each has a place of its own on this disk."""
    sources = [path.parent for path in sorted(corpora.glob("*/metadata.csv")) if path.parent.name != "noise_and_rooms"]
    subprocess.run(["cp", "-rL", *map(str, sources), str(work)], check=True)
    settings = PrepareSettings(min_duration_seconds=0.1, language="en")
    prepare([work / source.name for source in sources], work / "catalog.db", settings)
    return work / "catalog.db"


def loading(corpora: Path, work: Path, rounds: int) -> dict[str, object]:
    db, out = prepared(corpora, work), work / "shards"
    started = time.perf_counter()
    report = write_shards(db, out, shard_mb=SHARD_MB)
    write_seconds = time.perf_counter() - started
    index = ShardIndex(out)
    with Catalog(db) as catalog:
        files = [u.audio_path for u in catalog.utterances(split="train")]
    addresses = [u.audio_path for u in index.utterances("train")]
    tars = sorted({address.partition("#")[0] for address in addresses})
    by_file = batches(files)
    by_shard, by_window = batches(addresses), batches(addresses, index.shard_of("train"))
    ways: dict[str, Callable[[bool], Iterator[int]]] = {
        "files": lambda is_decoded: from_files(by_file, is_decoded),
        "shards_random": lambda is_decoded: from_shards(by_shard, is_decoded),
        "shards_windows": lambda is_decoded: from_shards(by_window, is_decoded),
        "webdataset": lambda is_decoded: from_webdataset(tars, is_decoded),
    }
    figures: dict[str, object] = {
        "utterances": len(files),
        "hours": round(report.seconds / 3600, 2),
        "shards": len(tars),
        "shard_mb": SHARD_MB,
        "write_utterances_per_second": round(report.utterances / write_seconds),
    }
    for is_decoded in (True, False):
        for temperature in ("warm", "cold"):
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(rounds):
                for way in [*list(ways)[turn % len(ways) :], *list(ways)[: turn % len(ways)]]:
                    if temperature == "cold":
                        figures["cold_by"] = drop_cache([*files, *tars])
                    started = time.perf_counter()
                    totals = list(ways[way](is_decoded))
                    rates[way].append(len(totals) / (time.perf_counter() - started))
                    if len(totals) != len(files):
                        raise RuntimeError(f"{way}: expected {len(files)} clips; received {len(totals)}")
            medians = {way: statistics.median(values) for way, values in rates.items()}
            figures[f"{'decode' if is_decoded else 'read'}_{temperature}_clips_per_second"] = {
                way: round(value) for way, value in medians.items()
            } | {
                "windows_over_files": round(medians["shards_windows"] / medians["files"], 2),
                "windows_over_webdataset": round(medians["shards_windows"] / medians["webdataset"], 2),
            }
    return figures


def synthetic_index(work: Path, rows: int, per_shard: int = 7_000) -> dict[str, object]:
    """Indexes of `rows` utterances of 60 characters without their tars, and the time to read them."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(-(-rows // per_shard)):
        count = min(per_shard, rows - number * per_shard)
        ids = [f"{value:016x}" for value in rng.integers(0, 2**63, count)]
        text = "một hai ba bốn năm sáu bảy tám chín mười trời đẹp quá hôm nay"
        content = index_lines(
            [
                IndexRow(i, f"{text.capitalize()}.", text, 5.25, "train", f"speaker{n % 2000}", "vi", f"{i}.mp3",
                         38_400 * n, 36_000, hashlib.sha256(i.encode()).hexdigest())
                for n, i in enumerate(ids)
            ]
        )  # fmt: skip
        path = tar_path("train", number)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(
            ShardEntry(path=path, bytes=38_400 * per_shard, sha256="0" * 64, index_bytes=len(content),
                       index_sha256=sha256, utterances=count, seconds=5.25 * count)
        )  # fmt: skip
        place = work / entries[-1].index_path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    manifest = ShardManifest(dataset_version="0" * 16, audio="original", left_out=0, shards=tuple(entries))
    (work / "manifest.json").write_bytes(to_json(manifest))
    code = (
        "import resource, sys, time\n"
        "from myna.data.shards.index import ShardIndex\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "started = time.perf_counter(); index = ShardIndex(sys.argv[1]); found = index.utterances('train')\n"
        "seconds = time.perf_counter() - started\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(found), len(index.shard_of('train')), seconds, (after - before) / 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    times, memory = [], 0.0
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, work], capture_output=True, text=True, check=True, env=environment
        )
        found, aligned, seconds, megabytes = done.stdout.split()
        if (int(found), int(aligned)) != (rows, rows):
            raise RuntimeError(f"expected {rows} utterances; received {found}")
        times.append(float(seconds))
        memory = float(megabytes)
    return {
        "index_rows": rows,
        "index_mb": round(sum(entry.index_bytes for entry in entries) / 1e6),
        "index_seconds": round(statistics.median(times), 2),
        "index_memory_mb": round(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=ROOT.parent / "shared" / "corpora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=700_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        figures = synthetic_index(Path(name) / "synthetic", arguments.rows) if arguments.rows else {}
        figures |= loading(arguments.corpora, Path(name), arguments.rounds) if arguments.rounds else {}
    figures["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"bench": "shards", **figures}))


if __name__ == "__main__":
    main()
