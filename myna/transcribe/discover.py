"""Which files to transcribe: those named, and in folders those that are audio by content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from myna.audio.decode import probe
from myna.errors import AudioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A file called this in a folder is set aside by name when it is broken; other files that are no audio are passed by.
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".webm"})


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A file to transcribe, and the name of what is written for it."""

    path: Path
    output_name: PurePath  # relative to the output folder, without the format's ending


def find_audio(arguments: Sequence[str | Path]) -> list[AudioFile]:
    """Expand folders, in a stable order and without repeats.

    Folders are searched to any depth; hidden files and links to folders are passed by. Output names mirror the
    folder below the argument; files that differ only in their ending keep it.
    """
    found: dict[Path, PurePath] = {}
    for argument in map(Path, arguments):
        if argument.is_dir():
            for path in _below(argument):
                found.setdefault(path, path.relative_to(argument))
        else:
            found.setdefault(argument, PurePath(argument.name))
    return _with_output_names(found)


def _below(folder: Path) -> Iterator[Path]:
    unreadable: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and (path.suffix.lower() in AUDIO_SUFFIXES or _is_audio(path)):
                yield path
    yield from unreadable  # decoding them names them among the refused


def _is_audio(path: Path) -> bool:
    try:
        probe(path)
    except AudioError:
        return False
    return True


def _with_output_names(found: dict[Path, PurePath]) -> list[AudioFile]:
    names = [relative.with_suffix("") for relative in found.values()]
    taken: dict[PurePath, int] = {}
    for name in names:
        taken[name] = taken.get(name, 0) + 1
    files, used = [], set[PurePath]()
    for (path, relative), name in zip(found.items(), names, strict=True):
        unique = name if taken[name] == 1 else relative
        count = 2
        while unique in used:  # two arguments of the same name from different folders
            unique = relative.with_name(f"{relative.name}-{count}")
            count += 1
        used.add(unique)
        files.append(AudioFile(path, unique))
    return files
