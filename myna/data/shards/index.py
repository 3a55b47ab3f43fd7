"""Reading shards: the utterances of a split by the tars' indexes, without opening a tar."""

from __future__ import annotations

import gc
import hashlib
from contextlib import contextmanager
from sys import intern
from typing import TYPE_CHECKING

import numpy as np

from myna.audio.addresses import address_of, fetch
from myna.data.shards.layout import MANIFEST_NAME, ShardEntry, ShardManifest, from_json, index_records
from myna.data.shards.store import Store
from myna.errors import AudioError, DataError, VersionError
from myna.samples import SPLITS, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_MANIFEST_BYTES = 256 << 20  # about 700,000 shards
INDEXES_TOGETHER = 8  # read at a time


class ShardIndex:
    """The shards of a dataset version, by their manifest.

    Args:
        url: the folder's path, or a URL that fsspec understands.

    Raises:
        DataError: there is no manifest, or it is broken or of a newer Myna.
        MissingExtraError: a package for the URL is not installed.
    """

    def __init__(self, url: str | Path) -> None:
        self.store = Store.at(url)
        self.manifest = read_manifest(self.store)
        self._read: dict[str, tuple[list[Utterance], NDArray[np.int32]]] = {}

    @property
    def version_id(self) -> str:
        """The dataset version that the shards hold."""
        return self.manifest.dataset_version

    def require(self, version_id: str) -> None:
        """Refuse shards of another dataset version.

        Raises:
            VersionError: they are not of this one.
        """
        if version_id != self.version_id:
            raise VersionError(
                f"{self.store.url}: expected shards of version {version_id}; received version {self.version_id}",
                "Write them with: myna shard --version",
            )

    def utterances(self, split: str) -> list[Utterance]:
        """The split's utterances in the order of their IDs, as the catalog has them, each with its address in a shard.

        Raises:
            DataError: an index is missing, or is not the one that the manifest names.
            VersionError: there is no such split.
        """
        return self._of(split)[0]

    def shard_of(self, split: str) -> NDArray[np.int32]:
        """(utterances,) the shard that each of `utterances(split)` lies in, numbered from 0 within the split.

        Raises:
            DataError, VersionError: see `utterances`.
        """
        return self._of(split)[1]

    def _of(self, split: str) -> tuple[list[Utterance], NDArray[np.int32]]:
        if split not in SPLITS:
            raise VersionError(f"expected a split of {', '.join(SPLITS)}; received {split!r}")
        if split not in self._read:
            shards = [shard for shard in self.manifest.shards if shard.split == split]
            with _without_collector():
                found = [
                    (utterance, number)
                    for number, (shard, content) in enumerate(read_indexes(self.store, shards))
                    for utterance in _utterances(self.store.place(shard.path), shard, content)
                ]
            found.sort(key=lambda item: item[0].utterance_id)
            self._read[split] = [item[0] for item in found], np.array([item[1] for item in found], dtype=np.int32)
        return self._read[split]


@contextmanager
def _without_collector() -> Iterator[None]:
    """A hundred thousand new objects and no cycles among them: looking for those takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_manifest(store: Store) -> ShardManifest:
    """The manifest of a folder of shards.

    Raises:
        DataError: there is none, or it is broken.
    """
    content = store.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if content is None:
        raise DataError(
            f"{store.url}: expected shards with a {MANIFEST_NAME}; there is none",
            "Write them with: myna shard; a run that was stopped goes on when it is started again",
        )
    return from_json(ShardManifest, content, store.place(MANIFEST_NAME))


def read_indexes(store: Store, shards: Sequence[ShardEntry]) -> Iterator[tuple[ShardEntry, bytes]]:
    """Each shard's index, compared with the manifest.

    Raises:
        DataError: one is missing, or is not the one that the manifest names.
    """
    for start in range(0, len(shards), INDEXES_TOGETHER):
        group = shards[start : start + INDEXES_TOGETHER]
        filled = [shard for shard in group if shard.index_bytes]
        received = iter(fetch([address_of(store.place(shard.index_path), 0, shard.index_bytes) for shard in filled]))
        for shard in group:
            content = next(received) if shard.index_bytes else b""
            if isinstance(content, AudioError):
                raise DataError(f"{store.place(shard.index_path)}: expected an index; {content.detail}")
            if hashlib.sha256(content).hexdigest() != shard.index_sha256:
                raise DataError(
                    f"{store.place(shard.index_path)}: expected sha256 {shard.index_sha256[:12]}... as the manifest "
                    "says; received other content",
                    "Find out what else is damaged with: myna shard --verify",
                )
            yield shard, content


def _utterances(tar: str, shard: ShardEntry, content: bytes) -> list[Utterance]:
    split = shard.split
    try:
        return [
            Utterance(
                record["utterance_id"],
                _address(tar, shard, record["offset_bytes"], record["size_bytes"]),
                record["transcript"],
                record["text"],
                float(record["duration_seconds"]),
                split,
                intern(record["speaker_id"]),  # a hundred thousand rows share few of these
                intern(record["language"]),
            )
            for record in index_records(content, tar)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{tar}: expected an index that fits its tar; received {error!r:.200}") from None


def _address(tar: str, shard: ShardEntry, offset_bytes: int, size_bytes: int) -> str:
    if not 0 <= offset_bytes <= offset_bytes + size_bytes <= shard.bytes:
        raise ValueError(f"bytes {offset_bytes} to {offset_bytes + size_bytes} of {shard.bytes}")
    return address_of(tar, offset_bytes, size_bytes)
