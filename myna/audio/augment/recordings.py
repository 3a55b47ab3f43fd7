"""Folders of recordings that transforms mix in: listed once, decoded when drawn, kept in memory for the next draw."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.audio.decode import decode, probe
from myna.errors import AudioError, ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from myna.samples import AudioClip

SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".webm", ".aiff", ".aif"})
CACHE_BYTES = 64_000_000  # of decoded samples in each process: 17 minutes at 16 kHz
TRIED_RATE_HZ = 16_000  # what a drawn file is decoded at to see whether it can be: most likely the clips' own rate


@dataclass(frozen=True)
class Recordings:
    """The audio files below a folder, as they were when it was listed."""

    folder: Path
    sizes: dict[str, int]  # bytes by name, relative to the folder with forward slashes; sorted by name
    read: Callable[[Path, int], NDArray[np.float32]]  # samples of a file at a sample rate in Hz; raises AudioError

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files' names, sorted."""
        return tuple(self.sizes)

    @cached_property
    def digest(self) -> str:
        """Changes when a file is added, removed, renamed or gets another size."""
        listing = "".join(f"{name}\0{size}\n" for name, size in self.sizes.items())
        return hashlib.blake2b(listing.encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def check(self) -> list[str]:
        """A sentence for each file whose headers cannot be read; such files are left out.

        Raises:
            ConfigError: there is no such folder, or nothing in it can be read.
        """
        if not self.folder.is_dir():
            raise ConfigError([f"folder: expected a folder of recordings; received {self.folder}, which is none"])
        if not self.names:
            raise ConfigError([f"folder: expected recordings ({_suffixes()}); received {self.folder} with none in it"])
        broken = {}
        for name in self.names:
            try:
                probe(self.folder / name)
            except AudioError as error:
                broken[name] = f"{name} in {self.folder} is left out: {error}"
        if len(broken) == len(self.names):
            first = next(iter(broken.values()))
            raise ConfigError([f"folder: expected recordings; received {len(broken)} that cannot be read: {first}"])
        return list(broken.values())

    def pick(self, rng: np.random.Generator) -> str:
        """The name of a file that can be decoded; one that cannot is named in a warning and left out.

        Raises:
            DataError: none can.
        """
        if self.names:
            first = int(rng.integers(len(self.names)))
            for name in (*self.names[first:], *self.names[:first]):
                if self._is_good(name):
                    return name
        raise DataError(f"expected recordings in {self.folder}; received none that can be read")

    def load(self, name: str, sample_rate_hz: int) -> NDArray[np.float32]:
        """Samples (N,) of a file, read-only.

        Raises:
            DataError: the folder is not what it was when it was listed.
            AudioError: the file cannot be decoded.
        """
        if name not in self.sizes:
            raise DataError(f"expected {name} in {self.folder}; it was not there when the folder was listed")
        path = self.folder / name
        key = (self.read, path, self.sizes[name], sample_rate_hz)
        if key not in _samples:
            self._must_be_unchanged(name)
            samples = self.read(path, sample_rate_hz)
            samples.flags.writeable = False
            _samples[key] = samples
            while len(_samples) > 1 and sum(kept.nbytes for kept in _samples.values()) > CACHE_BYTES:
                _samples.popitem(last=False)
        _samples.move_to_end(key)
        return _samples[key]

    def _is_good(self, name: str) -> bool:
        key = (self.folder, name, self.sizes[name])
        if key in _broken:
            return False
        try:
            self.load(name, TRIED_RATE_HZ)
        except AudioError as error:
            _broken.add(key)
            warnings.warn(f"{self.folder / name} is left out of augmentation: {error}", stacklevel=2)
            return False
        return True

    def _must_be_unchanged(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file() or path.stat().st_size != self.sizes[name]:
            raise DataError(
                f"expected {path} with {self.sizes[name]:,} bytes as at the start; it has changed or is gone",
                "Batches made before and after would differ: put it back, or begin a new run",
            )


@lru_cache(maxsize=64)
def recordings_in(folder: str, read: Callable[[Path, int], NDArray[np.float32]]) -> Recordings:
    """The recordings below a folder, listed once in a process; hidden files are passed over."""
    sizes = {}
    for parent, folder_names, file_names in os.walk(folder):
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        for name in file_names:
            path = Path(parent) / name
            if path.suffix.casefold() in SUFFIXES and not name.startswith(".") and path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return Recordings(Path(folder), dict(sorted(sizes.items())), read)


def read_start(path: Path, max_seconds: float, sample_rate_hz: int) -> AudioClip:
    """A recording, or the start of one that is longer than `max_seconds`; raises AudioError."""
    seconds = probe(path).duration_seconds
    is_longer = seconds is not None and seconds > max_seconds
    return decode(path, duration_seconds=max_seconds if is_longer else None, sample_rate_hz=sample_rate_hz)


_broken: set[tuple[Path, str, int]] = set()
# Decoded samples by reader, path, bytes and sample rate; the least recently used first.
_samples: OrderedDict[tuple[Any, Path, int, int], NDArray[np.float32]] = OrderedDict()


def _suffixes() -> str:
    return ", ".join(sorted(suffix.lstrip(".") for suffix in SUFFIXES))
