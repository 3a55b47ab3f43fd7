"""`myna transcribe`: files and folders in, text and subtitles out."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.errors import ConfigError, DataError
from myna.files import write_atomically
from myna.samples import Refusal, Transcript
from myna.transcribe.discover import AudioFile, find_audio
from myna.transcribe.formats import FORMATS, check_formats
from myna.transcribe.transcriber import Transcriber

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class FileResult:
    """One transcribed file."""

    path: str
    transcript: Transcript
    written: tuple[str, ...]  # files; empty without an output folder


@dataclass(frozen=True, slots=True)
class TranscribeOutcome:
    """What `transcribe_files` did."""

    results: tuple[FileResult, ...]
    refused: tuple[Refusal, ...]
    formats: tuple[str, ...]
    out: str  # output folder, "" when none
    audio_seconds: float
    processing_seconds: float  # reading and recognising, without loading the model

    @property
    def real_time_factor(self) -> float:
        """Processing seconds per second of audio."""
        return self.processing_seconds / self.audio_seconds if self.audio_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "files": [
                {"path": result.path, **asdict(result.transcript), "written": list(result.written)}
                for result in self.results
            ],
            "refused": [asdict(refusal) for refusal in self.refused],
            "audio_seconds": self.audio_seconds,
            "processing_seconds": self.processing_seconds,
            "real_time_factor": self.real_time_factor,
        }

    def as_text(self) -> str:
        """What a person reads: the transcripts themselves, or where they were written; then what was set aside."""
        if self.out:
            lines = [
                f"Transcribed {len(self.results)} files, {self.audio_seconds:.0f} s of audio, "
                f"in {self.processing_seconds:.1f} s; written to {self.out}"
            ]
        else:
            lines = [self._shown(result) for result in self.results]
        lines += [f"set aside: {r.audio_path}: {r.reason}: {r.detail}" for r in self.refused]
        return "\n".join(lines)

    def _shown(self, result: FileResult) -> str:
        texts = [FORMATS[name](result.transcript).rstrip("\n") for name in self.formats]
        if len(self.results) == 1:
            return "\n\n".join(texts)
        separator = ": " if self.formats == ("txt",) else "\n"
        return f"{result.path}{separator}" + "\n\n".join(texts)


def transcribe_files(
    model: str | Path,
    files: Sequence[str | Path],
    *,
    language: str = "",
    beam_width: int = 1,
    formats: Sequence[str] = ("txt",),
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TranscribeOutcome:
    """Transcribe files and folders of them.

    Files are written as soon as they are transcribed, each of them whole or not at all.

    Args:
        model: a run, checkpoint, local model folder or hub name.
        files: audio files, and folders that are searched for audio by content.
        language: ISO 639 code for models that are told one.
        beam_width: 1 is greedy.
        formats: of txt, srt, vtt, json.
        out: folder for the files; None keeps transcripts in the outcome only.
        progress: called with (files done, files in all).

    Raises:
        ConfigError: a format is unknown, or `out` is a file.
        DataError: nothing could be transcribed.
        ModelError: the model cannot be loaded.
    """
    formats = check_formats(formats)
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ConfigError([f"out: expected a folder; received the file {out}"])
    found = find_audio(files)
    if not found:
        raise DataError(f"expected audio files; received none in {', '.join(map(str, files))}")
    timed = any(name != "txt" for name in formats)
    transcriber = Transcriber(model, language=language, beam_width=beam_width, timestamps=timed)
    results: list[FileResult] = []
    refused: list[Refusal] = []
    start = time.perf_counter()
    heard_each = transcriber.transcribe_each(file.path for file in found)
    for done, (file, heard) in enumerate(zip(found, heard_each, strict=True), start=1):
        if isinstance(heard, Refusal):
            refused.append(heard)
        else:
            written = _write(heard, file, formats, Path(out)) if out is not None else ()
            results.append(FileResult(str(file.path), heard, written))
        if progress is not None:
            progress(done, len(found))
    if not results:
        first = refused[0]
        raise DataError(
            f"none of {len(refused)} files could be used; {first.audio_path}: {first.reason}: {first.detail}"
        )
    return TranscribeOutcome(
        results=tuple(results),
        refused=tuple(refused),
        formats=formats,
        out="" if out is None else str(out),
        audio_seconds=sum(result.transcript.duration_seconds for result in results),
        processing_seconds=time.perf_counter() - start,
    )


def _write(transcript: Transcript, file: AudioFile, formats: Sequence[str], out: Path) -> tuple[str, ...]:
    stem = out / file.output_name
    paths = {name: stem.with_name(f"{stem.name}.{name}") for name in formats}
    return tuple(str(write_atomically(paths[name], FORMATS[name](transcript))) for name in formats)
