"""A folder of recordings, each with its transcript in a text file of the same name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from myna.data.sources.rows import MAX_TRANSCRIPT_CHARACTERS, RowContext, bad_row, printable, split_named, to_recording
from myna.data.sources.tables import text_encoding
from myna.errors import SourceError
from myna.samples import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from myna.samples import Recording

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".wma", ".webm"}
    | {".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".amr", ".sph"}
)


def read_sidecars(context: RowContext) -> Iterator[Recording | Refusal]:
    """Every file with a .txt beside it, subfolders included; train, valid and test folders give their split.

    Files that look like audio and have no .txt are refused by name where transcripts are needed, and .txt files without
    audio everywhere. Hidden files are skipped.

    Raises:
        SourceError: when nothing in the folder has a transcript that is needed.
    """
    found = False
    closed: list[OSError] = []
    for folder, names in _walk(context.folder, closed.append):
        transcripts = {Path(name).stem for name in names if name.endswith(".txt")}
        audio_names = [name for name in names if _is_audio(folder, name, transcripts)]
        for name in audio_names:
            found |= Path(name).stem in transcripts or not context.needs_transcripts
            yield _read_pair(folder / name, context, Path(name).stem in transcripts)
        for stem in sorted(transcripts - {Path(name).stem for name in audio_names}):
            detail = f"{stem}.txt: expected an audio file of the same name beside it; there is none"
            yield Refusal(printable(str(folder / stem)), "", RefusalReason.MISSING_FILE, printable(detail))
    for error in closed:
        detail = f"the folder cannot be opened: {error.strerror}"
        yield Refusal(printable(str(error.filename)), "", RefusalReason.UNREADABLE, detail)
    if not found:
        raise SourceError(
            f"{context.origin}: expected metadata.csv, .tsv, .json or .jsonl, a Kaldi wav.scp, a saved dataset, or "
            "audio files with transcripts of the same name (a.wav, a.txt); received a folder with none of these",
            "docs/prepare.md shows every layout",
        )


def _walk(top: Path, on_error: Callable[[OSError], None]) -> Iterator[tuple[Path, list[str]]]:
    """Folders in order, each with the names in it; links to folders are followed, each folder is entered once."""
    entered: set[tuple[int, int]] = set()
    for folder, folder_names, file_names in os.walk(top, onerror=on_error, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:
            folder_names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        like_files = [name for name in folder_names if Path(name).suffix.casefold() in AUDIO_SUFFIXES]
        folder_names[:] = sorted(name for name in folder_names if not name.startswith(".") and name not in like_files)
        yield Path(folder), sorted(name for name in file_names + like_files if not name.startswith("."))


def _is_audio(folder: Path, name: str, transcripts: set[str]) -> bool:
    suffix = Path(name).suffix
    return suffix.casefold() in AUDIO_SUFFIXES or (suffix != ".txt" and Path(name).stem in transcripts)


def _read_pair(audio: Path, context: RowContext, has_transcript: bool) -> Recording | Refusal:
    row_name = str(audio.relative_to(context.folder))
    if not has_transcript and context.needs_transcripts:
        return bad_row({"audio": audio}, f"{row_name}: expected {audio.stem}.txt beside it; there is none", context)
    try:
        text = _read_transcript(audio.with_name(f"{audio.stem}.txt")) if has_transcript else None
    except (OSError, UnicodeError) as error:
        return bad_row({"audio": audio}, f"{row_name}: expected a readable {audio.stem}.txt; received {error}", context)
    first_folder = audio.relative_to(context.folder).parts[0]
    split = split_named(first_folder) if first_folder != audio.name else ""
    return to_recording({"audio": audio, "transcript": text, "split": split}, row_name, context)


def _read_transcript(path: Path) -> str:
    with path.open(encoding=text_encoding(path), errors="surrogateescape") as file:
        text = file.read(MAX_TRANSCRIPT_CHARACTERS + 100)
    return " ".join(line.strip() for line in text.splitlines()).strip()
