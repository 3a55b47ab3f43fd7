"""`read_source`: finds out what kind of source it was given, and reads it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from myna.data.sources.folders import AUDIO_SUFFIXES, read_sidecars
from myna.data.sources.hub import HUB_PREFIX, is_dataset_folder, read_dataset
from myna.data.sources.kaldi import read_kaldi
from myna.data.sources.rows import RowContext, split_named
from myna.data.sources.tables import read_table
from myna.data.sources.tars import (
    NEMO_MANIFEST,
    check_not_compressed,
    find_tars,
    read_tarred_manifest,
    read_tars,
)
from myna.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from myna.samples import Recording, Refusal

METADATA_NAMES = ("metadata.csv", "metadata.tsv", "metadata.json", "metadata.jsonl")


def read_source(
    spec: str | Path,
    columns: Mapping[str, str] | None = None,
    language: str = "",
    media_dir: str | Path = "media",
    *,
    needs_transcripts: bool = True,
) -> Iterator[Recording | Refusal]:
    """Rows of a source, whatever its kind; a broken row comes as a Refusal and never ends the reading.

    Args:
        spec: a folder, a manifest file, a tar, or `hf:org/name[:config]`; docs/prepare.md shows every layout.
        columns: role (audio, transcript, duration, offset, split, speaker_id, language) -> column name, where the usual
            names do not do.
        language: ISO 639 code for rows that name none.
        media_dir: where audio embedded in a dataset is written.
        needs_transcripts: refuse rows without one; else they come with the transcript "".

    Raises:
        SourceError: when the source as a whole cannot be understood.
        MissingExtraError: when a Hugging Face dataset is asked for and the package is not installed.
    """
    columns = columns or {}
    media_dir = Path(media_dir).absolute()
    name = str(spec)
    if name.startswith(HUB_PREFIX):
        context = RowContext(name, Path.cwd(), language, needs_transcripts=needs_transcripts)
        yield from read_dataset(name, columns, context, media_dir)
        return
    path = Path(spec).absolute()
    context = RowContext(name, path, language, needs_transcripts=needs_transcripts)
    try:
        if path.is_dir():
            yield from _read_folder(context, columns, media_dir)
        elif path.is_file() and path.suffix.casefold() == ".tar":
            yield from read_tars([path], columns, replace(context, folder=path.parent))
        elif path.is_file() and path.suffix.casefold() not in AUDIO_SUFFIXES:
            check_not_compressed([path])
            yield from read_table(path, columns, replace(context, folder=path.parent))
        else:
            received = "one audio file" if path.is_file() else "no such file or folder"
            raise SourceError(
                f"{name}: expected a folder, a tar, a CSV, TSV, JSON or JSONL file, or hf:org/name; received {received}"
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SourceError(f"{name}: expected a source to read; received {error}") from None


def _read_folder(context: RowContext, columns: Mapping[str, str], media_dir: Path) -> Iterator[Recording | Refusal]:
    folder = context.folder
    manifests = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(manifests) > 1:
        raise SourceError(
            f"{context.origin}: expected one metadata file; received {', '.join(path.name for path in manifests)}",
            "Name the one you mean instead of the folder",
        )
    if manifests:
        yield from read_table(manifests[0], columns, replace(context, origin=f"{context.origin}/{manifests[0].name}"))
    elif (folder / "wav.scp").is_file():
        own_split = split_named(folder.name) if folder.name.isalpha() else ""  # train, dev, test; not test_of_mine
        yield from read_kaldi(replace(context, split=context.split or own_split))
    elif is_dataset_folder(folder):
        yield from read_dataset(str(folder), columns, context, media_dir)
    elif parts := [part for part in sorted(folder.iterdir()) if _has_manifest(part)]:
        for part in parts:
            origin, split = f"{context.origin}/{part.name}", split_named(part.name)
            inner = replace(context, origin=origin, folder=part, split=split)
            yield from _read_folder(inner, columns, media_dir)
    elif tars := find_tars(folder):
        if (folder / NEMO_MANIFEST).is_file():
            yield from read_tarred_manifest(folder / NEMO_MANIFEST, tars, columns, context)
        else:
            yield from read_tars(tars, columns, context)
    else:
        yield from read_sidecars(context)


def _has_manifest(folder: Path) -> bool:
    # os.path, because Path.is_file raises for what lies in a folder that may not be opened
    return any(os.path.isfile(folder / name) for name in (*METADATA_NAMES, "wav.scp"))  # noqa: PTH113
