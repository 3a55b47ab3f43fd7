"""What is in a tar, by its headers alone: nothing is unpacked, and what could do harm elsewhere is refused here.

A strict reader: only regular files and folders, each name once, every byte inside the file. `tarfile` would follow
chains of extended headers recursively and read each of them into memory, whatever its size.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from myna.data.sources.rows import MAX_PATH_CHARACTERS, printable
from myna.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADERS = 3_000_000  # a million utterances of three members
MAX_EXTENDED_BYTES = 1 << 20  # of a long name or a pax header
BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
REFUSED_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str  # as in the tar, without a leading ./
    offset: int  # of its content, in bytes
    size: int


def scan(path: Path) -> list[Member]:
    """The regular files in a tar, in order.

    Raises:
        SourceError: it is no tar, compressed, cut off or broken; or it has links, devices, sparse files, absolute
            names, names with `..`, the same name twice, or headers beyond the limits.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise SourceError(f"{path}: expected a tar to read; received {error.strerror}") from None
    try:
        return _Scan(path, descriptor).members()
    finally:
        os.close(descriptor)


def compression(start: bytes) -> str:
    """How a file is compressed by its first bytes, "" when it is not."""
    return next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), "")


class _Scan:
    """One pass over the headers."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._long_name = ""
        self._long_size: int | None = None

    def members(self) -> list[Member]:
        found: dict[str, Member] = {}
        position = 0
        for _ in range(MAX_HEADERS):
            block = self._read(position, BLOCK)
            if len(block) < BLOCK:
                raise self._error(f"expected blocks of zeros at the end; it is cut off at byte {self._size:,}")
            if not any(block):
                self._check_rest(position)
                return list(found.values())
            header = self._header(block, position)
            start = position + BLOCK
            if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                self._extend(header, start)
                position = self._end(header.name, start, header.size)
                continue
            name, size = self._long_name or header.name, header.size if self._long_size is None else self._long_size
            self._long_name, self._long_size = "", None
            self._check_kind(name, header)
            name = self._checked_name(name)
            if header.isdir():
                position = start
                continue
            if name in found:
                raise self._error(f"expected every name once; received {printable(name)[:200]} again")
            found[name] = Member(name, start, size)
            position = self._end(name, start, size)
        raise self._error(f"expected at most {MAX_HEADERS:,} members; received more")

    def _read(self, position: int, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, position)
        except OSError as error:
            raise self._error(f"expected a tar to read; received {error.strerror}") from None

    def _header(self, block: bytes, position: int) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            packed = compression(block) if position == 0 else ""
            if packed:
                raise self._error(
                    f"expected a tar; received one compressed by {packed}",
                    "Uncompress it: recordings are read in place",
                ) from None
            raise self._error(f"expected a tar header at byte {position:,}; received {error}") from None

    def _end(self, name: str, start: int, size: int) -> int:
        """Where the next header is."""
        if size < 0 or start + size > self._size:
            raise self._error(
                f"expected {printable(name)[:200]} to end within {self._size:,} bytes; its header declares {size:,} "
                f"bytes from byte {start:,} on"
            )
        return start + -(-size // BLOCK) * BLOCK

    def _extend(self, header: tarfile.TarInfo, start: int) -> None:
        """Take a long name or size from a header that precedes its member."""
        self._end(header.name, start, header.size)
        if header.size > MAX_EXTENDED_BYTES:
            raise self._error(f"expected extended headers of at most {MAX_EXTENDED_BYTES:,} bytes; {header.size:,}")
        content = self._read(start, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self._long_name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return
        records = self._pax_records(content)
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise self._error("expected plain files; received a sparse file")
        if header.type == tarfile.XGLTYPE:
            if {b"path", b"size", b"linkpath"} & records.keys():
                raise self._error("expected a name and a size for each member; received one for all of them")
            return
        self._long_name = records.get(b"path", b"").decode("utf-8", "surrogateescape") or self._long_name
        if (size := records.get(b"size")) is not None:
            if not size.isdigit() or len(size) > 18:
                raise self._error(f"expected a size in bytes; received {size!r:.80}")
            self._long_size = int(size)

    def _pax_records(self, content: bytes) -> dict[bytes, bytes]:
        r"""`LENGTH KEY=VALUE\n` one after the other, where LENGTH counts all of it."""
        records, position = {}, 0
        while position < len(content) and content[position] != 0:
            digits = content[position : position + 20].split(b" ", 1)[0]
            length = int(digits) if digits.isdigit() else 0
            key, is_pair, value = content[position + len(digits) + 1 : position + length].partition(b"=")
            if not is_pair or not value.endswith(b"\n") or position + length > len(content):
                raise self._error("expected pax records; received a broken one")
            records[key] = value[:-1]
            position += length
        return records

    def _check_kind(self, name: str, header: tarfile.TarInfo) -> None:
        if header.isdir() or header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            return
        kind = REFUSED_KINDS.get(header.type, f"a member of type {header.type!r}")
        raise self._error(f"expected plain files and folders; received {kind}, {printable(name)[:200]}")

    def _checked_name(self, name: str) -> str:
        shown = printable(name)[:200]
        if len(name) > MAX_PATH_CHARACTERS:
            raise self._error(f"expected names of at most {MAX_PATH_CHARACTERS:,} characters; received {len(name):,}")
        if name.startswith("/") or ".." in name.split("/"):
            raise self._error(f"expected names inside the tar; received {shown}")
        return str(PurePosixPath(name))

    def _check_rest(self, position: int) -> None:
        """Behind the end there is filling: anything else would be lost without a word."""
        while rest := self._read(position, 1 << 20):
            if any(rest):
                raise self._error(
                    f"expected nothing behind its end at byte {position:,}; received more",
                    "Give tars that were put one behind the other as separate files",
                )
            position += len(rest)

    def _error(self, problem: str, remedy: str = "") -> SourceError:
        return SourceError(f"{self._path}: {problem}", remedy)
