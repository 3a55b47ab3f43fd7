"""Where a recording's bytes are: a file, or a byte range in a local or remote tar.

An address is a plain path, or "PATH#OFFSET+SIZE" for SIZE bytes from OFFSET on in PATH, where PATH is a local file or
a URL that fsspec understands, such as s3://bucket/train/shard-000000.tar.
"""

from __future__ import annotations

import io
import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from myna.audio.readers import short
from myna.errors import AudioError, DataError, MissingExtraError
from myna.samples import RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fsspec import AbstractFileSystem

MAX_FILE_BYTES = 4 * 1024**3
MAX_RANGE_BYTES = 1024**3  # a range is read into memory as a whole: more than an hour of 48 kHz stereo

_RANGE = re.compile(r"(.+)#(\d{1,18})\+(\d{1,18})", re.DOTALL)
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}  # protocol -> package and the extra that brings it


class ByteRange(NamedTuple):
    """A part of a file."""

    path: str  # local, or a URL
    offset: int
    size: int


def address_of(path: str, offset: int, size: int) -> str:
    """The address of `size` bytes from `offset` on."""
    return f"{path}#{offset}+{size}"


def byte_range(address: str | Path) -> ByteRange | None:
    """The range that an address names; None when it is a plain path, which may end in #12+34 like any other name."""
    text = os.fspath(address)
    if "#" not in text or (found := _RANGE.fullmatch(text)) is None:
        return None
    if not is_remote(text) and os.path.lexists(text):
        return None
    path, offset, size = found.groups()
    return ByteRange(path, int(offset), int(size))


def is_remote(path: str) -> bool:
    """Whether a path is a URL for fsspec."""
    return "://" in path


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. Credentials and endpoint are the environment's.

    Raises:
        MissingExtraError: s3fs is not installed.
        DataError: fsspec knows no such protocol, or the package for it is not installed.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    try:
        found, path = url_to_fs(url, use_listings_cache=False)  # a listing would hide what others have uploaded since
    except ImportError as error:
        if protocol in _EXTRAS:
            raise MissingExtraError(*_EXTRAS[protocol]) from None
        raise DataError(f"{url}: {protocol}:// needs another package: {short(error)}") from None
    except ValueError as error:
        raise DataError(
            f"{url}: expected a protocol that fsspec knows, such as s3://; received {short(error)}"
        ) from None
    return found, str(path)


def size_and_change(address: str | Path) -> tuple[int, int]:
    """Bytes of the recording, and when its file last changed in ns.

    Raises:
        OSError: there is no such file, or it may not be looked at; so it is for every remote address, whose file may
            change without our seeing it.
    """
    found = byte_range(address)
    if found is not None and is_remote(found.path):
        raise FileNotFoundError(found.path)
    status = os.stat(address if found is None else found.path)  # noqa: PTH116, a Path for each of a million is slow
    return status.st_size if found is None else found.size, status.st_mtime_ns


def may_be_read(address: str | Path) -> bool:
    """Whether a local file is there and its permissions let us read it."""
    found = byte_range(address)
    return os.access(address if found is None else found.path, os.R_OK)


@contextmanager
def opened(source: Path | str | bytes) -> Iterator[io.FileIO | io.BytesIO]:
    """A recording, by its address or as bytes, as an open file of acceptable size.

    Raises:
        AudioError: MISSING_FILE, UNREADABLE, TRUNCATED (the range ends beyond the file), EMPTY_AUDIO (no bytes) or
            TOO_LONG (more than the limits).
        MissingExtraError, DataError: see `filesystem`.
    """
    if isinstance(source, bytes):
        _check_size(len(source), MAX_FILE_BYTES)
        yield io.BytesIO(source)
    elif byte_range(source) is not None:
        content = fetch([os.fspath(source)])[0]
        if isinstance(content, AudioError):
            raise content
        yield io.BytesIO(content)
    else:
        with _opened_file(source) as descriptor:
            _check_size(os.fstat(descriptor).st_size, MAX_FILE_BYTES)
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                yield file


def fetch(addresses: Sequence[str]) -> list[bytes | AudioError]:
    """The bytes of many recordings, or what keeps each from being read; in the order of the addresses.

    Ranges of one local file are read in the order in which they lie, after the system was told of all of them;
    remote ones are read concurrently.

    Raises:
        MissingExtraError, DataError: see `filesystem`.
    """
    found: dict[int, bytes | AudioError] = {}
    local: dict[str, list[tuple[int, ByteRange]]] = {}
    remote: list[tuple[int, ByteRange]] = []
    for position, address in enumerate(addresses):
        part = byte_range(address)
        try:
            if part is None:
                found[position] = _read_file(address)
                continue
            _check_size(part.size, MAX_RANGE_BYTES)
        except AudioError as error:
            found[position] = error
            continue
        if is_remote(part.path):
            remote.append((position, part))
        else:
            local.setdefault(part.path, []).append((position, part))
    for path, parts in local.items():
        found.update(_read_local(path, sorted(parts, key=lambda item: item[1].offset)))
    found.update(_read_remote(remote))
    return [found[position] for position in range(len(addresses))]


def _read_file(path: str) -> bytes:
    with opened(path) as file:
        return file.read()


def _read_local(path: str, parts: list[tuple[int, ByteRange]]) -> Iterator[tuple[int, bytes | AudioError]]:
    try:
        with _opened_file(path) as descriptor:
            if hasattr(os, "posix_fadvise"):
                for _, part in parts:
                    os.posix_fadvise(descriptor, part.offset, part.size, os.POSIX_FADV_WILLNEED)
            for position, part in parts:
                try:
                    yield position, _whole(os.pread(descriptor, part.size, part.offset), part)
                except OSError as error:
                    yield position, AudioError(RefusalReason.UNREADABLE, f"{path} cannot be read: {short(error)}")
    except AudioError as error:
        yield from ((position, error) for position, _ in parts)


def _read_remote(parts: list[tuple[int, ByteRange]]) -> Iterator[tuple[int, bytes | AudioError]]:
    systems: dict[int, tuple[AbstractFileSystem, list[tuple[int, ByteRange, str]]]] = {}
    places: dict[str, tuple[AbstractFileSystem, str]] = {}
    for position, part in parts:
        if part.path not in places:
            places[part.path] = filesystem(part.path)
        system, key = places[part.path]
        systems.setdefault(id(system), (system, []))[1].append((position, part, key))
    for system, wanted in systems.values():
        starts = [part.offset for _, part, _ in wanted]
        ends = [part.offset + part.size for _, part, _ in wanted]
        received = system.cat_ranges([key for *_, key in wanted], starts, ends, on_error="return")
        for (position, part, _), content in zip(wanted, received, strict=True):
            yield (
                position,
                _remote_fault(part, content) if isinstance(content, BaseException) else _whole(content, part),
            )


def _whole(content: bytes, part: ByteRange) -> bytes | AudioError:
    if len(content) == part.size:
        return content
    detail = f"expected {part.size:,} bytes from byte {part.offset:,} of {part.path} on; received {len(content):,}"
    return AudioError(RefusalReason.TRUNCATED, detail)


def _remote_fault(part: ByteRange, error: BaseException) -> AudioError:
    if isinstance(error, FileNotFoundError):
        return AudioError(RefusalReason.MISSING_FILE, f"expected a file at {part.path}; there is none")
    if "InvalidRange" in str(error) or "range is not satisfiable" in str(error):  # S3 for a start beyond the end
        return AudioError(
            RefusalReason.TRUNCATED, f"expected {part.path} to go beyond byte {part.offset:,}; it ends before"
        )
    return AudioError(RefusalReason.UNREADABLE, f"{part.path} cannot be read: {type(error).__name__}: {short(error)}")


@contextmanager
def _opened_file(path: Path | str) -> Iterator[int]:
    """A descriptor of a regular file."""
    try:
        # A descriptor without a name: neither library may guess the format from the file's extension.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(RefusalReason.MISSING_FILE, f"expected a file at {path}; there is none") from None
    except (OSError, ValueError) as error:
        raise AudioError(RefusalReason.UNREADABLE, f"the file cannot be opened: {short(error)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AudioError(RefusalReason.UNREADABLE, "expected a file; received a directory or a device")
        yield descriptor
    finally:
        os.close(descriptor)


def _check_size(count: int, limit: int) -> None:
    if count == 0:
        raise AudioError(RefusalReason.EMPTY_AUDIO, "expected audio; received a file of 0 bytes")
    if count > limit:
        raise AudioError(RefusalReason.TOO_LONG, f"expected at most {limit:,} bytes; received {count:,}")
