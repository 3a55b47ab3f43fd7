"""Kaldi data directories: wav.scp, text, and if present segments, utt2spk, utt2lang."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myna.data.sources.rows import RowContext, bad_row, to_recording
from myna.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from myna.samples import Recording, Refusal


def read_kaldi(context: RowContext) -> Iterator[Recording | Refusal]:
    """Rows of a Kaldi directory. Commands in wav.scp (lines that end in `|`) are refused by name, never run.

    Raises:
        SourceError: when wav.scp, or text where transcripts are needed, is missing or unreadable.
    """
    folder = context.folder
    audio_of = _required(folder / "wav.scp")
    transcript_of = (_required if context.needs_transcripts else _optional)(folder / "text")
    speaker_of = _optional(folder / "utt2spk")
    language_of = _optional(folder / "utt2lang")
    has_segments = (folder / "segments").is_file()
    segments = _pairs(folder / "segments") if has_segments else ((utterance, utterance) for utterance in audio_of)
    seen = set()
    for utterance, segment in segments:
        seen.add(utterance)
        speaker = speaker_of.get(utterance, "")
        values: dict[str, object] = {
            "transcript": transcript_of.get(utterance),
            "speaker_id": "" if speaker == utterance else speaker,  # Kaldi's way to say that it is unknown
            "language": language_of.get(utterance, ""),
        }
        try:
            recording_id, times = _segment(segment) if has_segments else (utterance, {})
            values |= times
            values["audio"] = _audio(audio_of, recording_id)
        except ValueError as error:
            yield bad_row(values, f"{utterance}: {error}", context)
        else:
            yield to_recording(values, utterance, context)
    for utterance in (utterance for utterance in transcript_of if utterance not in seen):
        problem = f"{utterance}: expected audio for it in wav.scp or segments; there is none"
        yield bad_row({"transcript": transcript_of[utterance]}, problem, context)


def _segment(fields: str) -> tuple[str, dict[str, object]]:
    """`recording start end`; an end of -1 is the end of the file."""
    try:
        recording_id, start, end = fields.split()
        start_seconds, end_seconds = float(start), float(end)
    except ValueError:
        raise ValueError(f"expected `recording start end` in segments; received {fields!r:.80}") from None
    if end_seconds == -1:
        return recording_id, {"offset": start_seconds}
    if not start_seconds < end_seconds:
        raise ValueError(f"expected a segment that ends after its start; received {start} to {end}")
    return recording_id, {"offset": start_seconds, "duration": end_seconds - start_seconds}


def _audio(audio_of: dict[str, str], recording_id: str) -> str:
    path = audio_of.get(recording_id, "")
    if not path:
        raise ValueError(f"expected recording {recording_id!r:.80} in wav.scp; there is none")
    if path.endswith("|"):
        raise ValueError(f"expected a file in wav.scp; received a command, which is never run: {path!r:.200}")
    return path


def _required(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise SourceError(f"{path.parent}: expected a Kaldi directory with wav.scp and text; received no {path.name}")
    return dict(_pairs(path))


def _optional(path: Path) -> dict[str, str]:
    return dict(_pairs(path)) if path.is_file() else {}


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """First word and the rest of each line."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if fields := line.split(maxsplit=1):
                    yield fields[0], fields[1].strip() if len(fields) > 1 else ""
    except OSError as error:
        raise SourceError(f"{path}: expected a file to read; received {error}") from None
