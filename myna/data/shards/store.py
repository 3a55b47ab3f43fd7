"""A folder of shards, here or in an object store: read, and written so that files appear whole or not at all."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from myna.audio.addresses import filesystem, is_remote
from myna.errors import DataError, MynaError
from myna.files import staged_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

REMOTE_REMEDY = (
    "Check the address, the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://) and the endpoint "
    "(AWS_ENDPOINT_URL)"
)


@dataclass(frozen=True, slots=True)
class Store:
    """A folder by its place: an absolute path, or a URL that fsspec understands."""

    url: str

    @classmethod
    def at(cls, place: str | Path) -> Store:
        """The folder at a path or URL; it need not exist."""
        text = str(place).removeprefix("file://").removeprefix("local://")
        return cls(text.rstrip("/") if is_remote(text) else str(Path(text).expanduser().absolute()))

    @property
    def is_remote(self) -> bool:
        """Whether fsspec reads and writes it."""
        return is_remote(self.url)

    def place(self, name: str) -> str:
        """A file in it, by path or URL."""
        return f"{self.url}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none.

        Raises:
            DataError: the store cannot be reached.
        """
        with self._errors(name):
            try:
                if not self.is_remote:
                    return Path(self.place(name)).stat().st_size
                system, key = filesystem(self.place(name))
                return int(system.info(key)["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """A small file; None when there is none.

        Raises:
            DataError: the store cannot be reached, or the file is larger than `max_bytes`.
        """
        size = self.size(name)
        if size is None:
            return None
        if size > max_bytes:
            raise DataError(f"{self.place(name)}: expected at most {max_bytes:,} bytes; received {size:,}")
        with self._errors(name):
            if not self.is_remote:
                return Path(self.place(name)).read_bytes()
            system, key = filesystem(self.place(name))
            return bytes(system.cat_file(key))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole.

        Raises:
            DataError: the store cannot be written.
        """
        with self.staged(name) as file:
            file.write(content)

    @contextmanager
    def staged(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write that appears in the store when the block ends well: uploads start from a whole file.

        Raises:
            DataError: the store cannot be written.
        """
        with self._errors(name):
            if not self.is_remote:
                with staged_file(self.place(name)) as file:
                    yield file
                return
            with tempfile.NamedTemporaryFile(prefix="myna-shard-") as local:
                yield local
                local.flush()
                system, key = filesystem(self.place(name))
                system.put_file(local.name, key)  # never makes a bucket: a misspelt one would be somebody else's bill

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one on this machine that writes into the folder, and sweep up what a killed writer left.

        Object stores know no such lock, and need none: every file is written whole, and always with the same content.

        Raises:
            DataError: another process is writing, or the folder cannot be written.
        """
        if self.is_remote:
            yield
            return
        import fcntl

        folder = Path(self.url)
        with self._errors(""):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("wb")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(
                    f"{self.url}: expected to be the only one that writes here; another process does", "Wait for it"
                ) from None
            for partial in folder.glob("*/.shard-*.partial"):
                partial.unlink(missing_ok=True)
            yield

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """An object store's many exceptions, and the disk's, as one of ours."""
        try:
            yield
        except MynaError:
            raise
        except OSError as error:
            raise DataError(f"{self.place(name)}: {error}", REMOTE_REMEDY if self.is_remote else "") from None
        except Exception as error:
            if not self.is_remote:
                raise
            raise DataError(f"{self.place(name)}: {type(error).__name__}: {error}", REMOTE_REMEDY) from None
