"""`write_shards`: a dataset version as tar shards, in parallel, resumable, the same bytes from run to run."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from myna.data.catalog import Catalog
from myna.data.shards.layout import (
    MANIFEST_NAME,
    PLAN_NAME,
    AudioKind,
    IndexRow,
    LeftOut,
    ShardEntry,
    ShardManifest,
    ShardPlan,
    ShardReceipt,
    from_json,
    index_lines,
    index_path,
    receipt_path,
    to_json,
)
from myna.data.shards.members import TarWriter, contents, description
from myna.data.shards.plan import ShardTask, plan_shards, tasks
from myna.data.shards.store import Store
from myna.data.sources.rows import printable
from myna.data.workers import map_in_processes
from myna.errors import AudioError, DataError, MynaError, VersionError
from myna.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_SHARD_MB = 8_000.0  # what the oldest tar format can number
MAX_RECEIPT_BYTES = 256 << 20  # it may name every utterance of a shard as left out


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of writing shards."""

    version: str  # dataset version ID
    place: str
    audio: str
    shards: int
    made: int  # in this run; the others were there already
    utterances: int
    seconds: float  # of audio
    bytes: int  # of all tars
    left_out: tuple[LeftOut, ...]


def write_shards(
    db: str | Path,
    out: str | Path,
    *,
    version: str = "",
    audio: AudioKind = "original",
    shard_mb: float = 256,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Write a dataset version as shards.

    Shards that are there already are kept, so a run that was stopped goes on where it was. An utterance whose recording
    is gone, broken or changed is left out and named; once it can be read again, another run puts it in.

    Args:
        db: the catalog.
        out: a folder, or a URL that fsspec understands, such as s3://bucket/prefix.
        version: dataset version ID or its beginning, "" for the newest.
        audio: "original" keeps the bytes of recordings that are one utterance and cuts segments out as 16-bit flac of
            the recording's rate; "flac" stores everything as 16 kHz mono 16-bit flac.
        shard_mb: about the size of a shard, in 10^6 bytes.
        workers: processes; None is one per core, 0 works in this one.
        progress: called with (done, total) utterances.

    Raises:
        VersionError: there is no such version, or `out` holds another one.
        DataError: the catalog cannot be read, `out` cannot be written or holds shards of another kind, or nothing could
            be read.
        MissingExtraError: a package for the URL is not installed.
        ValueError: a size or kind of audio that is none.
    """
    if not 0 < shard_mb <= MAX_SHARD_MB or audio not in ("original", "flac"):
        raise ValueError(
            f"expected shard_mb in (0, {MAX_SHARD_MB:g}] and original or flac; received {shard_mb}, {audio}"
        )
    store = Store.at(out)
    workers = math.ceil(usable_cores()) if workers is None else workers
    with Catalog(db) as catalog, store.writing():
        version_id = catalog.version(version).version_id
        planned = plan_shards(catalog, version_id, audio, shard_mb * 1e6)
        _claim(store, ShardPlan(dataset_version=version_id, audio=audio, shard_mb=shard_mb, shards=len(planned)))
        total = sum(len(shard.positions) for shard in planned)
        receipts: dict[str, ShardReceipt] = {}
        made, done, died = 0, 0, []
        todo = tasks(catalog, version_id, audio, planned)
        for task, result in map_in_processes(
            partial(finish_shard, store=store, audio=audio), todo, min(workers, len(planned)), chunk_items=1
        ):
            if isinstance(result, MynaError):
                raise result
            if result is None:
                died.append(task.path)
                continue
            receipts[task.path], is_new = result
            made += is_new
            done += len(task.rows)
            if progress is not None:
                progress(done, total)
    if died:
        raise DataError(
            f"{store.url}: expected {len(planned)} shards; the processes that made {', '.join(died)} died, by a fault "
            "of a decoder or for want of memory",
            "Run it again with fewer workers or a smaller shard size: what is done is kept",
        )
    return _publish(store, version_id, audio, [receipts[shard.path] for shard in planned], made)


def _publish(store: Store, version_id: str, audio: AudioKind, receipts: list[ShardReceipt], made: int) -> ShardReport:
    left_out = tuple(item for receipt in receipts for item in receipt.left_out)
    shards = tuple(receipt.shard for receipt in receipts)
    utterances = sum(shard.utterances for shard in shards)
    if not utterances:
        shown = "".join(f"\n  - {item.audio_path}: {item.reason}: {item.detail}" for item in left_out[:5])
        raise DataError(
            f"{store.url}: expected recordings that can be read; received {len(left_out)} broken, such as{shown}"
        )
    manifest = ShardManifest(dataset_version=version_id, audio=audio, left_out=len(left_out), shards=shards)
    store.write(MANIFEST_NAME, to_json(manifest))
    return ShardReport(
        version=version_id,
        place=store.url,
        audio=audio,
        shards=len(shards),
        made=made,
        utterances=utterances,
        seconds=sum(shard.seconds for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        left_out=left_out,
    )


def _claim(store: Store, plan: ShardPlan) -> None:
    """One folder holds the shards of one plan: strays of another would be read twice by a *.tar."""
    content = store.read(PLAN_NAME, max_bytes=1 << 20)
    if content is None:
        store.write(PLAN_NAME, to_json(plan))
        return
    found = from_json(ShardPlan, content, store.place(PLAN_NAME))
    if found.dataset_version != plan.dataset_version:
        raise VersionError(
            f"{store.url}: expected shards of dataset version {plan.dataset_version}; received those of "
            f"{found.dataset_version}",
            "Give another --out, or the --version that it holds",
        )
    if found != plan:
        raise DataError(
            f"{store.url}: expected {plan.audio} audio in {plan.shards} shards of {plan.shard_mb:g} MB; received "
            f"{found.audio} in {found.shards} of {found.shard_mb:g} MB",
            "Give another --out, or the same --audio and --shard-mb",
        )


def finish_shard(task: ShardTask, store: Store, audio: AudioKind) -> tuple[ShardReceipt, bool] | MynaError:
    """The receipt of a shard that is whole, and whether it had to be made; or what keeps it from being written."""
    try:
        receipt = _kept(task, store, audio)
        return (receipt, False) if receipt is not None else (_make(task, store, audio), True)
    except MynaError as error:
        return error


def _kept(task: ShardTask, store: Store, audio: AudioKind) -> ShardReceipt | None:
    """The receipt of an earlier run, if it still holds."""
    content = store.read(receipt_path(task.path), MAX_RECEIPT_BYTES)
    if content is None:
        return None
    try:
        receipt = from_json(ShardReceipt, content, task.path)
    except DataError:
        return None
    shard = receipt.shard
    if (receipt.key, shard.path) != (task.key, task.path):
        return None
    if (store.size(shard.path), store.size(shard.index_path)) != (shard.bytes, shard.index_bytes):
        return None
    missing = {item.utterance_id for item in receipt.left_out}
    again = [row for row in task.rows if row.utterance.utterance_id in missing]
    if any(isinstance(content, bytes) for _, content, _ in contents(again, audio)):
        return None  # mended since
    return receipt


def _make(task: ShardTask, store: Store, audio: AudioKind) -> ShardReceipt:
    rows: list[IndexRow] = []
    left_out: list[LeftOut] = []
    with store.staged(task.path) as file:
        tar = TarWriter(file)
        for row, content, ending in contents(task.rows, audio):
            utterance = row.utterance
            if isinstance(content, AudioError):
                reason, detail = content.reason.value, printable(content.detail)
                left_out.append(LeftOut(utterance.utterance_id, utterance.audio_path, reason, detail))
                continue
            member, sha256 = f"{utterance.utterance_id}.{ending}", hashlib.sha256(content).hexdigest()
            offset_bytes = tar.add(member, content)
            tar.add(f"{utterance.utterance_id}.json", description(utterance, sha256))
            rows.append(
                IndexRow(
                    utterance.utterance_id,
                    utterance.transcript,
                    utterance.text,
                    utterance.duration_seconds,
                    utterance.split,
                    utterance.speaker_id,
                    utterance.language,
                    member,
                    offset_bytes,
                    len(content),
                    sha256,
                )
            )
        tar_sha256 = tar.finish()
    index = index_lines(rows)
    store.write(index_path(task.path), index)
    entry = ShardEntry(
        path=task.path,
        bytes=tar.size_bytes,
        sha256=tar_sha256,
        index_bytes=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
        utterances=len(rows),
        seconds=sum(row.duration_seconds for row in rows),
    )
    receipt = ShardReceipt(key=task.key, shard=entry, left_out=tuple(left_out))
    store.write(receipt_path(task.path), to_json(receipt))
    return receipt
