"""Where a producer finds the recordings of a run, which may lie elsewhere than on the trainer's host."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from myna.data.catalog import Catalog
from myna.data.shards.index import ShardIndex
from myna.errors import ConfigError, FeedError, VersionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.samples import Utterance

LOOKED_AT = 200  # recordings, evenly spread
MISSING_SHARE = 0.05  # of those looked at: more are no broken files but another place

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataPath:
    """A copy of the dataset version that a run trains on: a catalog and its files, or shards.

    Raises:
        ConfigError: neither is named, or both are.
    """

    db: str = ""  # catalog with that version
    shards: str = ""  # folder or URL that `myna shard` wrote
    audio_root: tuple[tuple[str, str], ...] = ()  # (from, to): the catalog's folders, and what they are called here

    def __post_init__(self) -> None:
        if bool(self.db) == bool(self.shards):
            received = f"--db {self.db} and --shards {self.shards}" if self.db else "neither"
            raise ConfigError([f"expected --db CATALOG or --shards FOLDER; received {received}"])

    def version(self, wanted: str = "") -> str:
        """ID of the dataset version that is here and begins with `wanted`; the newest of a catalog for "".

        Raises:
            VersionError: there is none.
        """
        if not self.shards:
            with Catalog(self.db) as catalog:
                return catalog.version(wanted).version_id
        found = ShardIndex(self.shards).version_id
        if not found.startswith(wanted):
            raise VersionError(
                f"{self.shards}: expected shards of dataset version {wanted}; received {found}",
                f"Write them with: myna shard --version {wanted}",
            )
        return found

    def audio(self) -> str:
        """Whether the recordings are the original ones, or what shards have made of them."""
        return ShardIndex(self.shards).manifest.audio if self.shards else "original"

    def utterances(self, version: str, splits: Sequence[str]) -> list[Utterance]:
        """The splits one after the other, each in the order of IDs, with paths as they are on this host.

        Raises:
            VersionError: the dataset version is not here.
        """
        if self.shards:
            index = ShardIndex(self.shards)
            index.require(version)
            return [utterance for split in splits for utterance in index.utterances(split)]
        with Catalog(self.db) as catalog:
            known = [found.version_id for found in catalog.versions()]
            if version not in known:
                raise VersionError(
                    f"{self.db}: expected dataset version {version}, which the run is bound to; received "
                    f"{', '.join(known[-20:]) or 'none'}",
                    "Copy the trainer's catalog here, and its recordings (--audio-root FROM=TO where they lie in "
                    "another folder than there), or read shards with --shards",
                )
            return [
                replace(utterance, audio_path=self.here(utterance.audio_path))
                for split in splits
                for utterance in catalog.utterances(version, split=split)
            ]

    def here(self, path: str) -> str:
        """What a path of the trainer's host is called on this one."""
        for origin, target in self.audio_root:
            if path == origin or path.startswith(origin.rstrip("/") + "/"):
                return target.rstrip("/") + path[len(origin.rstrip("/")) :]
        return path


def parse_audio_root(pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`FROM=TO` of the command line.

    Raises:
        ConfigError: with all that are not of that form.
    """
    parted = [pair.partition("=") for pair in pairs]
    mistakes = [
        f"--audio-root {origin}{equals}{target}: expected FROM=TO, such as /data/clips=/mnt/clips"
        for origin, equals, target in parted
        if not (origin and target)
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return tuple((origin, target) for origin, _, target in parted)


def check_recordings(utterances: Sequence[Utterance]) -> None:
    """Look at some recordings: a producer that finds none would send empty batches, and each would look broken.

    Raises:
        FeedError: files are missing here, more than a few.
    """
    step = max(1, len(utterances) // LOOKED_AT)
    looked_at = [utterance.audio_path for utterance in utterances[::step] if "://" not in utterance.audio_path]
    missing = [path for path in looked_at if not is_there(path)]
    if len(missing) > MISSING_SHARE * len(looked_at):
        raise FeedError(
            f"expected the run's recordings on this host; {len(missing)} of {len(looked_at)} looked at are missing, "
            f"for instance {missing[0]}",
            "Say where they are with --audio-root FROM=TO, or mount them.",
        )
    if missing:
        logger.warning(
            "%d of %d recordings are missing here, for instance %s", len(missing), len(looked_at), missing[0]
        )


def is_there(path: str) -> bool:
    """Whether a file is there, or the tar of a range."""
    return Path(path).exists() or ("#" in path and Path(path.rpartition("#")[0]).exists())
