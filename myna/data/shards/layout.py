"""What lies in a folder of shards, and what its files say.

plan.json                           written first: what this folder is going to hold
train/shard-000000.tar              WebDataset: <utterance_id>.<format> and <utterance_id>.json for each utterance
train/shard-000000.index.jsonl      one line an utterance: what is said in it, and where its bytes are in the tar
train/shard-000000.done.json        sizes and hashes of those two: there only when both are whole
manifest.json                       written last: all shards, with sizes and hashes
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myna.errors import DataError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
PLAN_NAME = "plan.json"

AudioKind = Literal["original", "flac"]  # recordings' own bytes, or everything as 16 kHz mono 16-bit flac

_Bytes = Annotated[int, Field(ge=0)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class ShardPlan(_Stored):
    """What a folder of shards is going to hold; another plan has no place in it."""

    format: Literal["myna-shards"] = "myna-shards"
    format_version: Literal[1] = 1
    dataset_version: str
    audio: AudioKind
    shard_mb: float
    shards: int


class ShardEntry(_Stored):
    """One shard that is whole."""

    path: Annotated[str, Field(pattern=r"^(train|valid|test)/shard-\d{6}\.tar$")]  # nothing outside the folder
    bytes: _Bytes
    sha256: _Sha256
    index_bytes: _Bytes
    index_sha256: _Sha256
    utterances: _Bytes
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def split(self) -> str:
        """One of SPLITS."""
        return self.path.partition("/")[0]

    @property
    def index_path(self) -> str:
        """Where its index lies."""
        return index_path(self.path)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An utterance of the version that is in no shard, and why."""

    utterance_id: str
    audio_path: str
    reason: str  # a RefusalReason
    detail: str


class ShardReceipt(_Stored):
    """Says that a shard is whole, so that it need not be made again."""

    key: str  # hash of what the shard was to hold
    shard: ShardEntry
    left_out: tuple[LeftOut, ...]


class ShardManifest(_Stored):
    """All shards of a dataset version."""

    format: Literal["myna-shards"] = "myna-shards"
    format_version: Literal[1] = 1
    dataset_version: str
    audio: AudioKind
    left_out: _Bytes  # utterances of the version that are in no shard
    shards: tuple[ShardEntry, ...]


class IndexRow(NamedTuple):
    """One utterance of a shard: the member is the utterance from its start to its end."""

    utterance_id: str
    transcript: str
    text: str
    duration_seconds: float
    split: str
    speaker_id: str
    language: str
    member: str  # name in the tar
    offset_bytes: int  # of the member's content
    size_bytes: int
    sha256: str  # of the member's content


Stored = TypeVar("Stored", bound=_Stored)


def tar_path(split: str, number: int) -> str:
    """Where a shard lies in the folder."""
    return f"{split}/shard-{number:06d}.tar"


def index_path(path: str) -> str:
    """Where the index of a shard lies."""
    return path.removesuffix(".tar") + ".index.jsonl"


def receipt_path(path: str) -> str:
    """Where the receipt of a shard lies."""
    return path.removesuffix(".tar") + ".done.json"


def to_json(stored: _Stored) -> bytes:
    """The file's content."""
    return (stored.model_dump_json(indent=1) + "\n").encode()


def from_json(kind: type[Stored], content: bytes, place: str) -> Stored:
    """What a file says.

    Raises:
        DataError: it is broken, or of a newer Myna.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{place}: expected shards of format {FORMAT_VERSION}; received {where or 'JSON'}: {first['msg']}",
            "Write the shards again, or update Myna if a newer one wrote them",
        ) from None


def index_lines(rows: list[IndexRow]) -> bytes:
    """The index's content."""
    return b"".join(json.dumps(row._asdict(), ensure_ascii=False).encode() + b"\n" for row in rows)


def index_records(content: bytes, place: str) -> list[dict[str, Any]]:
    """The lines of an index, as objects with the fields of `IndexRow`.

    Raises:
        DataError: it is broken.
    """
    try:
        records = json.loads(b"[" + b",".join(content.splitlines()) + b"]")  # one call: twice as fast as one a line
        if not all(type(record) is dict for record in records):
            raise ValueError("a line that is no object")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: expected one JSON object a line; received {error!r:.200}") from None
    return list(records)
