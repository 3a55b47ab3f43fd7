"""From a file, an address or bytes to mono samples: `decode`, and `probe` for what the headers say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soxr

from myna.audio.addresses import opened
from myna.audio.readers import DECODER_FAULTS, AudioInfo, open_reader, short
from myna.audio.structure import cut_off
from myna.errors import AudioError
from myna.samples import AudioClip, RefusalReason

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from myna.audio.readers import Reader

__all__ = ["MAX_DECODED_SECONDS", "AudioInfo", "decode", "probe"]

MAX_DECODED_SECONDS = 3_600.0  # 230 MB of samples at 16 kHz
# Headers and manifests round, encoders pad: a recording shorter than stated by less than this is whole.
TOLERATED_MISSING_SECONDS = 0.1


def probe(source: Path | str | bytes) -> AudioInfo:
    """Format, length, sample rate and channels by the headers alone.

    `duration_seconds` is None when the headers do not say. It is an estimate from the bit rate for mp3 without a Xing
    header; raw aac has its frame headers counted.

    Raises:
        AudioError: MISSING_FILE, UNREADABLE or TRUNCATED.
    """
    with opened(source) as file:
        reader = _reader(file)
        reader.close()
        return reader.info


def decode(
    source: Path | str | bytes,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    sample_rate_hz: int = 16_000,
    max_seconds: float = MAX_DECODED_SECONDS,
) -> AudioClip:
    """A recording, or a segment of it, as mono float32 samples at `sample_rate_hz`.

    Channels are averaged. libsndfile's formats are read from the segment's start, the others decoded up to it and
    dropped. At most `max_seconds` are ever decoded for the segment, whatever the headers claim.

    Args:
        source: an address (myna.audio.addresses: a path, or a byte range in a tar), or a whole file's bytes.
        offset_seconds: where the segment starts.
        duration_seconds: the segment's length; None is up to the end.
        sample_rate_hz: of the result.
        max_seconds: the longest segment accepted.

    Raises:
        AudioError: MISSING_FILE, UNREADABLE, EMPTY_AUDIO (no samples), TRUNCATED (ends before its header, or
            `duration_seconds`, says), NOT_FINITE or TOO_LONG.
        ValueError: a negative or non-finite offset, duration or limit.
    """
    _check_segment(offset_seconds, duration_seconds, max_seconds)
    with opened(source) as file:
        reader = _reader(file)
        try:
            samples = _segment(reader, offset_seconds, duration_seconds, sample_rate_hz, max_seconds)
        finally:
            reader.close()
    return AudioClip(samples, sample_rate_hz)


def _reader(file: BinaryIO) -> Reader:
    try:
        cut = cut_off(file)
    except OSError as error:  # a failing disk or network
        raise AudioError(RefusalReason.UNREADABLE, short(error)) from None
    if cut:
        raise AudioError(RefusalReason.TRUNCATED, cut)
    return open_reader(file)


def _segment(
    reader: Reader, offset_seconds: float, duration_seconds: float | None, sample_rate_hz: int, max_seconds: float
) -> NDArray[np.float32]:
    rate = reader.info.sample_rate_hz
    start = round(offset_seconds * rate)
    max_frames = int(max_seconds * rate)
    wanted = None if duration_seconds is None else round(duration_seconds * rate)
    limit = max_frames + 1 if wanted is None else min(wanted, max_frames + 1)

    resampler = None if rate == sample_rate_hz else soxr.ResampleStream(rate, sample_rate_hz, 1, "float32", "HQ")
    pieces: list[NDArray[np.float32]] = []
    received, fault = 0, ""
    try:
        for block in reader.blocks(start):
            block = _finite(block[: limit - received])
            received += len(block)
            pieces.append(block if resampler is None else resampler.resample_chunk(block))
            if received == limit:
                break
    except DECODER_FAULTS as error:
        fault = short(error)
    if received > max_frames:
        raise AudioError(RefusalReason.TOO_LONG, f"expected at most {max_seconds:g} s; received more")
    if wanted is None or received < wanted:
        _check_end(reader, start, received, wanted, fault)
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(pieces)


def _finite(block: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(block).all():
        raise AudioError(RefusalReason.NOT_FINITE, "expected finite samples; received NaN or infinity")
    return block


def _check_end(reader: Reader, start: int, received: int, wanted: int | None, fault: str) -> None:
    """Is this where the recording ends by its own account, or did something get lost?"""
    info = reader.info
    rate = info.sample_rate_hz
    expected = end = start + received
    if wanted is not None and info.duration_seconds != 0:
        expected = start + wanted
    elif reader.exact_length and info.duration_seconds is not None:
        expected = round(info.duration_seconds * rate)
    if expected - end > TOLERATED_MISSING_SECONDS * rate:
        because = f" ({fault})" if fault else ""
        raise AudioError(
            RefusalReason.TRUNCATED, f"expected {expected / rate:.3f} s of audio; received {end / rate:.3f} s{because}"
        )
    if fault:
        raise AudioError(RefusalReason.UNREADABLE, f"decoding failed after {end / rate:.3f} s: {fault}")
    if received == 0:
        raise AudioError(RefusalReason.EMPTY_AUDIO, f"expected samples; received none from {start / rate:.3f} s on")


def _check_segment(offset_seconds: float, duration_seconds: float | None, max_seconds: float) -> None:
    duration = 1.0 if duration_seconds is None else duration_seconds
    if not (0 <= offset_seconds < math.inf and 0 < duration < math.inf and 0 < max_seconds < math.inf):
        raise ValueError(
            "expected offset_seconds >= 0, duration_seconds > 0 and max_seconds > 0; "
            f"received {offset_seconds}, {duration_seconds}, {max_seconds}"
        )
