"""One clip read, hashed, decoded and measured: what the ingest processes do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

from myna.audio.addresses import may_be_read, opened, size_and_change
from myna.audio.decode import decode, probe
from myna.data.checks import ClipStatistics, measure
from myna.errors import AudioError
from myna.samples import RefusalReason

NO_FILE = -1  # size of a file that could not be looked at; never equal to a stored one


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A file, or a segment of it, to be measured."""

    audio_path: str  # or an address, see myna.audio.addresses
    offset_seconds: float | None  # None: the whole file
    segment_seconds: float | None  # None: up to the end
    size_bytes: int
    mtime_ns: int

    @property
    def segment(self) -> str:
        """The segment as a key; "" is the whole file."""
        return segment_key(self.offset_seconds, self.segment_seconds)


class Probe(NamedTuple):
    """What is known of one clip, as the catalog keeps it; either statistics or a failure."""

    audio_path: str
    segment: str
    size_bytes: int  # NO_FILE when the finding must not outlast this run
    mtime_ns: int
    judged_under: str  # limits and decoders that a failure depends on
    audio_sha256: str = ""
    duration_seconds: float = 0.0
    peak: float = 0.0
    clipped_share: float = 0.0
    is_finite: bool = True
    failure: str = ""  # a RefusalReason
    failure_detail: str = ""

    @property
    def statistics(self) -> ClipStatistics:
        """What the checks judge."""
        return ClipStatistics(self.duration_seconds, self.peak, self.clipped_share, bool(self.is_finite))


def segment_key(offset_seconds: float | None, segment_seconds: float | None) -> str:
    """A segment as text, to the microsecond; "" is the whole file."""
    if offset_seconds is None:
        return ""
    return f"{offset_seconds:.6f}+" + ("" if segment_seconds is None else f"{segment_seconds:.6f}")


def judged_under(max_seconds: float) -> str:
    """What a decoding failure depends on besides the file: it is worth another try when this changes."""
    return f"{max_seconds:g} s, av {version('av')}, soundfile {version('soundfile')}"


def look_at(audio_path: str, offset_seconds: float | None, segment_seconds: float | None) -> ClipRequest:
    """A request that carries the recording's present size and its file's time of change."""
    try:
        size_bytes, mtime_ns = size_and_change(audio_path)
    except (OSError, ValueError):
        size_bytes, mtime_ns = NO_FILE, 0
    return ClipRequest(audio_path, offset_seconds, segment_seconds, size_bytes, mtime_ns)


def examine(request: ClipRequest, max_seconds: float) -> Probe:
    """Decode, measure and hash a clip; whatever goes wrong with it becomes a failure with its reason."""
    try:
        statistics = measure(
            decode(
                request.audio_path,
                offset_seconds=request.offset_seconds or 0.0,
                duration_seconds=request.segment_seconds,
                max_seconds=max_seconds,
            )
        )
        digest = audio_sha256(request.audio_path, request.size_bytes, request.mtime_ns)
    except AudioError as error:
        return failed(request, max_seconds, error.reason, _with_length(request, max_seconds, error))
    except Exception as error:  # a codec's own exception must cost one file, not the run
        return failed(request, max_seconds, RefusalReason.UNREADABLE, f"the decoder failed: {error!r:.200}")
    return Probe(
        request.audio_path,
        request.segment,
        request.size_bytes,
        request.mtime_ns,
        judged_under(max_seconds),
        digest,
        statistics.duration_seconds,
        statistics.peak,
        statistics.clipped_share,
        statistics.is_finite,
    )


def failed(request: ClipRequest, max_seconds: float, reason: RefusalReason, detail: str, lasting: bool = True) -> Probe:
    """A failure to remember until the file changes; `lasting=False` is for what may be different next time."""
    lasting = lasting and may_be_read(request.audio_path)  # permissions change without a new mtime
    return Probe(
        request.audio_path,
        request.segment,
        request.size_bytes if lasting else NO_FILE,
        request.mtime_ns,
        judged_under(max_seconds),
        failure=reason.value,
        failure_detail=detail,
    )


def _with_length(request: ClipRequest, max_seconds: float, error: AudioError) -> str:
    """Decoding stops at the limit, so the headers are asked how long the file is."""
    if error.reason is not RefusalReason.TOO_LONG or request.offset_seconds is not None:
        return error.detail
    try:
        seconds = probe(request.audio_path).duration_seconds
    except AudioError:
        return error.detail
    return error.detail if seconds is None else f"expected at most {max_seconds:g} s; received about {seconds:.0f} s"


@lru_cache(maxsize=1024)
def audio_sha256(audio_path: str, size_bytes: int, mtime_ns: int) -> str:
    """Hash of the recording's bytes; remembered, because a long file has many segments.

    Raises:
        AudioError: the bytes cannot be had.
    """
    with opened(audio_path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
