"""`verify`: every byte of a folder of shards read again and compared with its hashes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from myna.audio.addresses import address_of, fetch
from myna.data.shards.index import read_indexes, read_manifest
from myna.data.shards.layout import ShardEntry, index_records
from myna.data.shards.store import Store
from myna.data.workers import map_in_processes
from myna.errors import AudioError, DataError
from myna.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ_BYTES = 16 << 20  # at a time


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What came of checking shards."""

    version: str  # dataset version ID
    place: str
    shards: int
    utterances: int
    bytes: int  # of all tars
    mismatches: tuple[str, ...]  # each names a file, or a member of one


def verify(
    url: str | Path, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Read all shards again and name everything that is not as the manifest and the indexes say.

    Args:
        url: the folder's path, or a URL that fsspec understands.
        workers: processes; None is one per core, 0 works in this one.
        progress: called with (done, total) shards.

    Raises:
        DataError: there is no manifest, or it is broken.
        MissingExtraError: a package for the URL is not installed.
    """
    store = Store.at(url)
    manifest = read_manifest(store)
    workers = min(len(manifest.shards), math.ceil(usable_cores()) if workers is None else workers)
    found: dict[str, list[str]] = {}
    work = partial(check_shard, store=store)
    for shard, mismatches in map_in_processes(work, manifest.shards, workers, chunk_items=1):
        found[shard.path] = [f"{shard.path}: the process that read it died"] if mismatches is None else mismatches
        if progress is not None:
            progress(len(found), len(manifest.shards))
    return VerifyReport(
        version=manifest.dataset_version,
        place=store.url,
        shards=len(manifest.shards),
        utterances=sum(shard.utterances for shard in manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        mismatches=tuple(text for shard in manifest.shards for text in found[shard.path]),
    )


def check_shard(shard: ShardEntry, store: Store) -> list[str]:
    """What is wrong with a shard; each line names the file, and the member where one can be told."""
    try:
        ((_, content),) = read_indexes(store, [shard])
        rows = sorted(index_records(content, shard.index_path), key=lambda row: int(row["offset_bytes"]))
        problems = [] if len(rows) == shard.utterances else [_differs(shard.index_path, shard.utterances, len(rows))]
    except (DataError, KeyError, TypeError, ValueError) as error:
        rows, problems = [], [f"{shard.index_path}: {error}"]
    try:
        size = store.size(shard.path)
        if size != shard.bytes:
            problems.append(f"{shard.path}: expected {shard.bytes:,} bytes; received {size or 0:,}")
        digest = hashlib.sha256()
        for content, members in _pieces(shard, store, rows):
            digest.update(content)
            for name, sha256, member in members:
                if hashlib.sha256(member).hexdigest() != sha256:
                    problems.append(f"{shard.path}: {name}: expected sha256 {sha256[:12]}...; received other content")
        if digest.hexdigest() != shard.sha256:
            problems.append(f"{shard.path}: expected sha256 {shard.sha256[:12]}...; received other content")
    except (AudioError, DataError) as error:
        problems.append(f"{shard.path}: {error}")
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"{shard.index_path}: expected lines that fit the tar; received {error!r:.200}")
    return problems


def _pieces(
    shard: ShardEntry, store: Store, rows: list[dict[str, Any]]
) -> Iterator[tuple[bytes, list[tuple[str, str, memoryview]]]]:
    """The tar from its start to its end, in pieces of whole members: (bytes, [(name, hash, content)])."""
    start = 0
    while start < shard.bytes:
        end = start
        inside: list[dict[str, Any]] = []
        while rows and (not inside or rows[0]["offset_bytes"] + rows[0]["size_bytes"] <= start + READ_BYTES):
            inside.append(rows.pop(0))
            end = inside[-1]["offset_bytes"] + inside[-1]["size_bytes"]
        if not rows:
            end = min(shard.bytes, max(end, start + READ_BYTES))
        if not start < end <= shard.bytes:
            raise ValueError(f"bytes up to {end} of {shard.bytes}")
        content = fetch([address_of(store.place(shard.path), start, end - start)])[0]
        if isinstance(content, AudioError):
            raise content
        view = memoryview(content)
        yield content, [(row["member"], row["sha256"], _slice(view, row, start)) for row in inside]
        start = end


def _slice(view: memoryview, row: dict[str, Any], start: int) -> memoryview:
    first = row["offset_bytes"] - start
    if first < 0:
        raise ValueError(f"{row['member']} overlaps another member")
    return view[first : first + row["size_bytes"]]


def _differs(name: str, expected: int, received: int) -> str:
    return f"{name}: expected {expected:,} utterances; received {received:,}"
