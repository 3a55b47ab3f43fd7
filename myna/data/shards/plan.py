"""Which utterance goes into which shard: a random sample of its split each, the same ones every time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from myna.data.shards.layout import FORMAT_VERSION, AudioKind, tar_path
from myna.data.staging import utterance_id
from myna.samples import SPLITS, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from myna.data.catalog import Catalog

SHUFFLE_SEED = 20_260_101  # any constant: the same version gives the same shards everywhere
# What 16 kHz speech takes as flac: assumed, measured on Common Voice as 15,000 to 20,000. Only sizes depend on it.
FLAC_BYTES_PER_SECOND = 18_000
MEMBER_OVERHEAD_BYTES = 2_300  # two tar headers of 512, the JSON, filling up to 512

COLUMNS = (
    "u.utterance_id, u.audio_path, u.transcript, u.text, u.duration_seconds, m.split, u.speaker_id, u.language, "
    "u.offset_seconds, u.audio_sha256, u.audio_bytes"
)


class ShardRow(NamedTuple):
    """An utterance to be put into a shard."""

    utterance: Utterance
    audio_sha256: str  # of its recording, as prepared
    audio_bytes: int  # likewise
    is_whole: bool  # the utterance is the whole recording, not a segment of it


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be made."""

    path: str  # in the store
    key: str  # hash of what it is to hold
    rows: tuple[ShardRow, ...]


class PlannedShard(NamedTuple):
    """A shard's place and its members."""

    path: str
    positions: NDArray[np.int64]  # of the version's membership, in the order in which they are written


def plan_shards(catalog: Catalog, version_id: str, audio: AudioKind, shard_bytes: float) -> list[PlannedShard]:
    """All shards of a version; `shard_bytes` is about what each takes."""
    shards = []
    for split in SPLITS:
        rows = catalog.connection.execute(
            f"SELECT m.position, {COLUMNS} FROM versions v JOIN membership m ON m.version = v.number "
            "JOIN utterances u ON u.number = m.utterance WHERE v.version_id = ? AND m.split = ? ORDER BY m.position",
            (version_id, split),
        )
        members = [(row[0], _stored_bytes(_row(row[1:]), audio)) for row in rows]
        positions, sizes = np.array(members, dtype=np.int64).reshape(-1, 2).T
        parts = deal(sizes, shard_bytes, SHUFFLE_SEED)
        shards += [PlannedShard(tar_path(split, number), positions[part]) for number, part in enumerate(parts)]
    return shards


def deal(sizes_bytes: NDArray[np.int64], shard_bytes: float, seed: int) -> list[NDArray[np.int64]]:
    """Shuffled indices into `sizes_bytes` (num_utterances,), cut into parts of nearly equal bytes.

    There are as few parts as can do with `shard_bytes` each; one exceeds that by less than its last member.
    """
    order = np.random.default_rng(seed).permutation(len(sizes_bytes))
    ends = np.cumsum(sizes_bytes[order])
    total = int(ends[-1]) if len(ends) else 0
    count = max(1, -int(-total // shard_bytes))
    cuts = np.searchsorted(ends, total * np.arange(1, count) / count)
    return [part for part in np.split(order, cuts) if len(part)]


def tasks(catalog: Catalog, version_id: str, audio: AudioKind, shards: list[PlannedShard]) -> Iterator[ShardTask]:
    """The shards with their rows, one after the other so that memory stays flat."""
    for path, positions in shards:
        found = catalog.connection.execute(
            f"SELECT {COLUMNS} FROM json_each(?) j JOIN versions v ON v.version_id = ? "
            "JOIN membership m ON m.version = v.number AND m.position = j.value "
            "JOIN utterances u ON u.number = m.utterance ORDER BY j.key",
            (json.dumps(positions.tolist()), version_id),
        )
        rows = tuple(_row(row) for row in found)
        ids = [row.utterance.utterance_id for row in rows]
        identity = json.dumps([FORMAT_VERSION, version_id, audio, path, ids])
        yield ShardTask(path, hashlib.sha256(identity.encode()).hexdigest()[:16], rows)


def _row(columns: tuple[object, ...]) -> ShardRow:
    *fields, sha256, size_bytes = columns
    utterance = Utterance(*fields)  # type: ignore[arg-type]
    # An ID is a hash over the segment, too, so it tells a whole recording from a segment that starts at 0.
    is_whole = utterance.utterance_id == utterance_id(str(sha256), "", utterance.transcript)
    return ShardRow(utterance, str(sha256), int(size_bytes), is_whole)  # type: ignore[call-overload]


def _stored_bytes(row: ShardRow, audio: AudioKind) -> float:
    """About what an utterance takes in a shard."""
    keeps_bytes = row.is_whole and audio == "original"
    content = row.audio_bytes if keeps_bytes else row.utterance.duration_seconds * FLAC_BYTES_PER_SECOND
    return MEMBER_OVERHEAD_BYTES + content
