"""Tars: WebDataset shards of any origin, and NeMo's tarred datasets. Recordings stay in them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from myna.audio.addresses import address_of, fetch
from myna.data.sources.folders import AUDIO_SUFFIXES
from myna.data.sources.rows import (
    MAX_TRANSCRIPT_CHARACTERS,
    bad_row,
    find_columns,
    printable,
    split_named,
    to_recording,
)
from myna.data.sources.tables import read_table
from myna.data.sources.tar_members import Member, scan
from myna.errors import AudioError, SourceError
from myna.samples import Recording, Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from myna.data.sources.rows import RowContext

COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
NEMO_MANIFEST = "tarred_audio_manifest.json"
MAX_SIDECAR_BYTES = 1 << 20
_SPLIT_TAR = re.compile(r"[a-z]+[-_.]?\d*", re.IGNORECASE)  # train-000012, not test_of_mine


def find_tars(folder: Path) -> list[Path]:
    """The tars in a folder and in its direct subfolders.

    Raises:
        SourceError: there are compressed ones, which cannot be read in place.
    """
    parts = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))]
    found = [Path(part, name) for part in parts for name in _names_of_tars(part)]
    check_not_compressed(found)
    return found


def _names_of_tars(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)  # noqa: PTH208, a Path for each of a million recordings is slow
    except OSError:
        return []
    return sorted(
        n for n in names if not n.startswith(".") and (n.casefold().endswith(".tar") or COMPRESSED_TAR.search(n))
    )


def check_not_compressed(paths: Sequence[Path]) -> None:
    """Refuse tars that would have to be uncompressed as a whole to read one recording.

    Raises:
        SourceError: there is one.
    """
    if packed := next((path for path in paths if COMPRESSED_TAR.search(path.name)), None):
        raise SourceError(
            f"{packed}: expected tars; received a compressed one", "Uncompress it, for instance by gunzip"
        )


def read_tars(tars: Sequence[Path], columns: Mapping[str, str], context: RowContext) -> Iterator[Recording | Refusal]:
    """Recordings of WebDataset tars: `key.flac` with `key.json` or `key.txt`; folders and tars give their split.

    A tar that is broken or hostile is refused by name, as a whole.

    Raises:
        SourceError: when there is only one tar, and it is.
    """
    for path in tars:
        try:
            members = scan(path)
        except SourceError as error:
            if len(tars) == 1:
                raise
            yield Refusal(printable(str(path)), "", RefusalReason.UNREADABLE, printable(str(error)))
            continue
        split = split_named(path.parent.name) if path.parent != context.folder else ""
        split = split or (split_named(path.stem) if _SPLIT_TAR.fullmatch(path.stem) else "")
        yield from _Tar(path, members, columns, replace(context, split=split or context.split)).rows()


class _Tar:
    """One tar's members on their way to recordings."""

    def __init__(self, path: Path, members: list[Member], columns: Mapping[str, str], context: RowContext) -> None:
        self._path = path
        self._members = members
        self._columns = columns
        self._context = replace(context, origin=str(path))
        self._roles: dict[tuple[str, ...], dict[str, str]] = {}

    def rows(self) -> Iterator[Recording | Refusal]:
        visible = [member for member in self._members if not _is_hidden(member.name)]
        sidecars = {member.name: member for member in visible if member.name.endswith((".txt", ".json"))}
        used: set[str] = set()
        for member in visible:
            if PurePosixPath(member.name).suffix.casefold() not in AUDIO_SUFFIXES | {".audio"}:
                continue
            stem = next((stem for stem in _keys(member.name) if _has_sidecar(stem, sidecars)), "")
            used.add(stem)
            yield self._row(member, sidecars.get(f"{stem}.json"), sidecars.get(f"{stem}.txt"))
        for stem in sorted({name.rpartition(".")[0] for name in sidecars} - used):
            detail = f"{self._path}: {stem}: expected audio beside its transcript; there is none"
            yield Refusal(printable(f"{self._path}/{stem}"), "", RefusalReason.MISSING_FILE, printable(detail))

    def _row(self, audio: Member, fields: Member | None, text: Member | None) -> Recording | Refusal:
        values: dict[str, object] = {"audio": self._address(audio)}
        try:
            if fields is not None:
                values |= self._fields(fields)
            if text is not None and values.get("transcript") is None:
                words = self._content(text).decode("utf-8-sig")[: MAX_TRANSCRIPT_CHARACTERS + 100]
                values["transcript"] = " ".join(line.strip() for line in words.splitlines()).strip()
        except (ValueError, RecursionError, AudioError, SourceError) as error:
            return bad_row(
                values, f"{audio.name}: expected a readable transcript beside it; received {error}", self._context
            )
        if values.get("transcript") is None and self._context.needs_transcripts:
            problem = "expected a .txt, or a .json with a transcript, of the same name; there is none"
            return bad_row(values, f"{audio.name}: {problem}", self._context)
        return to_recording(values, audio.name, self._context)

    def _fields(self, member: Member) -> dict[str, Any]:
        """Role -> value, of the JSON beside a recording."""
        record = json.loads(self._content(member))
        if not isinstance(record, dict):
            raise ValueError(f"a {type(record).__name__} in {member.name}")
        keys = tuple(record)
        if keys not in self._roles:
            # The recording is the member beside the JSON, whatever that says, and the transcript may be in a .txt: so
            # there is always an audio, and the transcript's least telling name.
            available = [*keys, "audio", "sentence"]
            context = replace(self._context, origin=member.name)
            self._roles[keys] = find_columns(available, {**self._columns, "audio": "audio"}, context)
        return {role: record.get(key) for role, key in self._roles[keys].items() if role != "audio"}

    def _content(self, member: Member) -> bytes:
        if member.size > MAX_SIDECAR_BYTES:
            raise ValueError(f"{member.name} of {member.size:,} bytes, over {MAX_SIDECAR_BYTES:,}")
        content = fetch([self._address(member)])[0] if member.size else b""
        if isinstance(content, AudioError):
            raise content
        return content

    def _address(self, member: Member) -> str:
        return address_of(str(self._path), member.offset, member.size)


def read_tarred_manifest(
    manifest: Path, tars: Sequence[Path], columns: Mapping[str, str], context: RowContext
) -> Iterator[Recording | Refusal]:
    """Recordings of a NeMo tarred dataset: a manifest, whose rows name members of the tars beside it.

    Raises:
        SourceError: the manifest cannot be understood, a tar is broken or hostile, or two tars have a name in common.
    """
    addresses: dict[str, str] = {}
    for path in tars:
        for member in scan(path):
            if member.name in addresses:
                raise SourceError(
                    f"{path}: expected names that no other tar has; received {printable(member.name)[:200]}"
                )
            addresses[member.name] = address_of(str(path), member.offset, member.size)
    for row in read_table(manifest, columns, context):
        if isinstance(row, Refusal):
            yield row
            continue
        name = str(row.audio_path.relative_to(context.folder) if row.audio_path.is_relative_to(context.folder) else "")
        # the second segment of a recording is called name-sub1, and lies in the member called name
        address = addresses.get(name) or addresses.get(re.sub(r"-sub\d+(?=\.[^.]*$)", "", name))
        if address is None:
            detail = f"{context.origin}: expected {name or row.audio_path} in the tars beside it; there is none"
            yield Refusal(printable(str(row.audio_path)), row.transcript, RefusalReason.MISSING_FILE, printable(detail))
        else:
            yield replace(row, audio_path=Path(address))


def _keys(name: str) -> tuple[str, str]:
    """What a member's sidecars may be called: its name without the last ending, or (WebDataset) without all."""
    folder, slash, base = name.rpartition("/")
    return name.rpartition(".")[0], folder + slash + base.partition(".")[0]


def _has_sidecar(stem: str, sidecars: Mapping[str, Member]) -> bool:
    return f"{stem}.json" in sidecars or f"{stem}.txt" in sidecars


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
