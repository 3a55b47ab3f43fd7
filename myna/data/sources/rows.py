"""One row of any source becomes a Recording, or a Refusal that names the row."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from myna.errors import SourceError
from myna.samples import Recording, Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_PATH_CHARACTERS = 4096  # PATH_MAX of Linux
MAX_TRANSCRIPT_CHARACTERS = 10_000  # ten minutes of fast speech

# What people call their columns, most telling name first.
ALIASES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio_filepath",
        "audio_path",
        "audio_file",
        "file_path",
        "file_name",
        "filename",
        "path",
        "audio",
        "wav",
        "wav_path",
        "file",
    ),
    "transcript": ("transcript", "transcription", "text", "sentence"),
    "duration": ("duration", "duration_seconds"),
    "offset": ("offset", "offset_seconds"),
    "split": ("split", "subset"),
    "speaker_id": ("speaker_id", "speaker", "client_id"),
    "language": ("language", "locale", "lang"),
}
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "development": "valid",
    "test": "test",
    "testing": "test",
}


class RowError(ValueError):
    """What is wrong with one row."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """What the rows of one source share."""

    origin: str  # how messages name the source
    folder: Path  # absolute; relative audio paths start here
    language: str = ""  # for rows that name none
    split: str = ""  # likewise
    needs_transcripts: bool = True  # False: rows without one are recordings too

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that there must be."""
        return ("audio", "transcript") if self.needs_transcripts else ("audio",)


def split_named(name: str) -> str:
    """The split that a name stands for, "" when none: dev and validation are valid, train-clean-100 is train."""
    return _SPLIT_WORDS.get(re.split(r"[^a-z]", name.strip().casefold(), maxsplit=1)[0], "")


def find_columns(available: Collection[str], columns: Mapping[str, str], context: RowContext) -> dict[str, str]:
    """Which column plays which role.

    Args:
        available: the names that the source uses.
        columns: role -> name where the user says so; roles are the keys of ALIASES, "" means: find it.
        context: what the rows of the source share.

    Raises:
        SourceError: when a named column does not exist, or there is none for the audio or a transcript that is needed.
    """
    by_simple_name = {_simple(name): name for name in reversed(list(available))}
    found, missing = {}, []
    for role, aliases in ALIASES.items():
        wanted = columns.get(role, "")
        if wanted and wanted not in available:
            near = difflib.get_close_matches(wanted, list(available), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            missing.append(f"a column {wanted!r} for the {role}{hint}")
        elif wanted:
            found[role] = wanted
        elif name := next((by_simple_name[alias] for alias in aliases if alias in by_simple_name), None):
            found[role] = name
        elif role in context.required:
            missing.append(f"a column for the {role} ({', '.join(aliases)})")
    if missing:
        names = ", ".join(repr(name) for name in list(available)[:30]) or "none"
        raise SourceError(
            f"{context.origin}: expected {' and '.join(missing)}; received the columns {names}",
            "Say which column it is, such as data.columns.audio=my_path data.columns.transcript=my_words",
        )
    return found


def to_recording(values: Mapping[str, object], row_name: str, context: RowContext) -> Recording | Refusal:
    """Check one row.

    Args:
        values: role -> value as the source gives it; absent, None and "" all mean: not said.
        row_name: what the row is called in its source, such as "line 12".
        context: what all rows of the source share.
    """
    try:
        _reject_fragments(values)
        offset_seconds = _seconds(values, "offset")
        duration_seconds = _seconds(values, "duration")
        if duration_seconds == 0:
            raise RowError("expected a duration over 0; received 0")
        return Recording(
            audio_path=context.folder / _audio_path(values),
            transcript=_transcript(values, context.needs_transcripts),
            split=_split(values) or context.split,
            speaker_id=_text(values, "speaker_id"),
            language=_text(values, "language") or context.language,
            duration_seconds=duration_seconds,
            offset_seconds=offset_seconds,
        )
    except RowError as error:
        return bad_row(values, f"{row_name}: {error}", context)


def bad_row(values: Mapping[str, object], detail: str, context: RowContext) -> Refusal:
    """A refusal that still names the row's audio when the row says it."""
    audio = values.get("audio")
    path = str(context.folder / audio) if isinstance(audio, str | Path) and audio else context.origin
    transcript = values.get("transcript")
    return Refusal(
        audio_path=printable(path)[:MAX_PATH_CHARACTERS],
        transcript=printable(transcript)[:MAX_TRANSCRIPT_CHARACTERS] if isinstance(transcript, str) else "",
        reason=RefusalReason.BAD_ROW,
        detail=printable(f"{context.origin}, {detail}"),
    )


def printable(text: str) -> str:
    r"""The text with bytes that are no UTF-8, and NUL, written as \x.. so that anything can store and print it."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _simple(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())


def _reject_fragments(values: Mapping[str, object]) -> None:
    for role, value in values.items():
        if isinstance(value, str) and not _is_unicode(value):
            raise RowError(f"expected UTF-8 in the {role}; received {printable(value)[:80]}")


def _is_unicode(text: str) -> bool:
    """False for lone surrogates: undecodable bytes end up as those."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _audio_path(values: Mapping[str, object]) -> str:
    path = values.get("audio")
    path = str(path) if isinstance(path, Path) else path.strip() if isinstance(path, str) else path
    if not isinstance(path, str) or not path:
        raise RowError(f"expected the path of an audio file; received {path!r:.80}")
    if "\0" in path:
        raise RowError("expected a path without NUL characters")
    if len(path) > MAX_PATH_CHARACTERS:
        raise RowError(f"expected a path of at most {MAX_PATH_CHARACTERS} characters; received {len(path)}")
    return path


def _transcript(values: Mapping[str, object], is_needed: bool) -> str:
    text = values.get("transcript")
    if text is None and not is_needed:
        return ""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)  # a spreadsheet's idea of a transcript such as "7"
    if not isinstance(text, str):
        raise RowError(f"expected a transcript; received {text!r:.80}")
    if len(text) > MAX_TRANSCRIPT_CHARACTERS:
        raise RowError(f"expected a transcript of at most {MAX_TRANSCRIPT_CHARACTERS} characters; received {len(text)}")
    return text.strip()


def _seconds(values: Mapping[str, object], role: str) -> float | None:
    value = values.get(role)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        seconds = float(value)
    except (ValueError, OverflowError):
        raise RowError(f"expected seconds in the {role}; received {value!r:.80}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise RowError(f"expected a {role} of at least 0 seconds; received {value!r:.80}")
    return round(seconds, 6)


def _split(values: Mapping[str, object]) -> str:
    name = _text(values, "split")
    if name and not split_named(name):
        raise RowError(f"expected the split train, valid (dev, validation) or test; received {name!r:.80}")
    return split_named(name)


def _text(values: Mapping[str, object], role: str) -> str:
    value = values.get(role)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"expected text in the {role}; received {value!r:.80}")
    return str(value).strip()
