"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that readers see the old content or the new, never a part.

    Args:
        path: the file; missing parent folders are made.
        content: text is written as UTF-8.
    """
    with staged_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextlib.contextmanager
def staged_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes its final name only when the block ends well, and is gone after an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill that takes its final name only when the block ends well.

    A folder that already stands at `path` is replaced at that moment; after an exception it is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        for file in staging.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            shutil.rmtree(path)
        staging.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def link_atomically(link: str | Path, target_name: str) -> None:
    """Point the symbolic link at a sibling, replacing an earlier link in one step."""
    link = Path(link)
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target_name)
    partial.replace(link)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
