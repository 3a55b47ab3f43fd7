"""Opens one recording of any of the formats and hands out its samples in blocks, mono, at its own rate.

wav, flac, ogg and their relatives are read by libsndfile (through soundfile); mp3, m4a, aac, wma and webm by libav
(through PyAV). The content decides which, never the file's name. libsndfile could read mp3 too, but it guesses the
length of variable-bit-rate files without a Xing header and stops there, and it writes warnings to stderr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

import av
import numpy as np
import soundfile

from myna.audio.structure import adts_seconds, sniff
from myna.errors import AudioError
from myna.samples import RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 384_000
MAX_CHANNELS = 64
BLOCK_FRAMES = 65_536

# Containers that libav may open. Without the list it would also follow playlists to other files and hosts.
AV_FORMATS = "aac,asf,matroska,mov,mp3"
AV_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "m4a", "matroska,webm": "webm", "asf": "wma"}
LIBSNDFILE_FORMATS = frozenset({"wav", "flac", "ogg", "aiff", "au", "caf", "w64", "rf64"})
AAC_FRAME_SAMPLES = 1024

# What the two libraries raise for bytes they do not like; av.FFmpegError and soundfile.LibsndfileError are among these.
DECODER_FAULTS = (OSError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError, av.FFmpegError)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a recording's headers say."""

    format: str  # wav, mp3, flac, ogg, m4a, aac, wma, webm, ...
    duration_seconds: float | None  # None when the headers do not say; an estimate for mp3 without a Xing header
    sample_rate_hz: int
    channels: int


class Reader(Protocol):
    """One open recording."""

    info: AudioInfo
    exact_length: bool  # the headers state the length exactly, so fewer frames mean a cut-off file

    def blocks(self, start_frame: int) -> Iterator[NDArray[np.float32]]:
        """Mono samples from `start_frame` on, (block_frames,) each."""
        ...

    def close(self) -> None:
        """Let go of the decoder; the file itself stays open."""
        ...


def open_reader(file: BinaryIO) -> Reader:
    """A reader for what the file contains.

    Raises:
        AudioError: UNREADABLE when neither library understands it, or its rate or channel count is beyond the limits.
    """
    kind = sniff(file)
    try:
        reader: Reader = SoundFileReader(file) if kind in LIBSNDFILE_FORMATS else AvReader(file, kind)
    except DECODER_FAULTS as error:
        raise AudioError(
            RefusalReason.UNREADABLE,
            f"expected wav, mp3, flac, ogg, m4a, aac, wma or webm; received {kind or 'none of them'} ({short(error)})",
        ) from None
    info = reader.info
    if not MIN_SAMPLE_RATE_HZ <= info.sample_rate_hz <= MAX_SAMPLE_RATE_HZ or not 1 <= info.channels <= MAX_CHANNELS:
        reader.close()
        raise AudioError(
            RefusalReason.UNREADABLE,
            f"expected {MIN_SAMPLE_RATE_HZ}-{MAX_SAMPLE_RATE_HZ} Hz and 1-{MAX_CHANNELS} channels; "
            f"received {info.sample_rate_hz} Hz and {info.channels} channels",
        )
    return reader


class SoundFileReader:
    """libsndfile: PCM in all its wrappings, flac, ogg (vorbis and opus)."""

    exact_length = True

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._sound = soundfile.SoundFile(_descriptor(file), closefd=False)
        sound = self._sound
        known = 0 <= sound.frames < 2**62  # libsndfile's "unknown" is 2**63 - 1
        self.info = AudioInfo(
            format=sound.format.lower(),
            duration_seconds=sound.frames / sound.samplerate if known else None,
            sample_rate_hz=sound.samplerate,
            channels=sound.channels,
        )

    def blocks(self, start_frame: int) -> Iterator[NDArray[np.float32]]:
        sound = self._sound
        if start_frame >= sound.frames:
            return
        sound.seek(start_frame)
        while len(block := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):  # (frames, channels)
            yield block[:, 0] if sound.channels == 1 else block.mean(axis=1, dtype=np.float32)

    def close(self) -> None:
        self._sound.close()


class AvReader:
    """libav: mp3, m4a, raw aac, wma, webm."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        # Before libav has the file: it goes on reading from wherever the position is.
        duration_seconds = adts_seconds(file) if kind == "aac" else None
        file.seek(0)
        self._container = av.open(file, options={"format_whitelist": AV_FORMATS}, metadata_errors="ignore")
        stream = next(iter(self._container.streams.audio), None)
        if stream is None or stream.codec_context is None:
            self._container.close()
            raise ValueError("no audio stream" if stream is None else "no decoder for its codec")
        self._stream = stream
        codec = stream.codec_context
        container_name = self._container.format.name
        self.exact_length = container_name in AV_NAMES
        self._priming_frames = self._manual_priming()
        self.info = AudioInfo(
            format=AV_NAMES.get(container_name, container_name),
            duration_seconds=self._header_seconds() if container_name != "aac" else duration_seconds,
            sample_rate_hz=codec.sample_rate,
            channels=codec.channels,
        )

    def _header_seconds(self) -> float | None:
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / av.time_base

    def _manual_priming(self) -> int:
        """Frames of encoder delay at the start that libav does not drop by itself, or drops wrongly.

        Raw AAC has no header that could state the delay; encoders put one frame of 1024 samples in front. For WMA libav
        drops two frames where the encoder adds one (a frame is 512 to 2048 samples, depending on the rate), so its own
        dropping is turned off here.
        """
        codec = self._stream.codec_context
        if codec.name in ("wmav1", "wmav2"):
            codec.flags2 |= av.codec.context.Flags2.skip_manual
            codec.open(strict=False)  # only an open decoder knows its delay
            return int(codec.delay) // 2
        return AAC_FRAME_SAMPLES if self._container.format.name == "aac" else 0

    def blocks(self, start_frame: int) -> Iterator[NDArray[np.float32]]:
        to_skip = start_frame + self._priming_frames
        for block in self._coalesced():
            if to_skip < len(block):
                yield block[to_skip:]
            to_skip = max(0, to_skip - len(block))

    def _coalesced(self) -> Iterator[NDArray[np.float32]]:
        """libav's frames of some hundred samples, joined to blocks worth resampling."""
        fifo = av.AudioFifo()  # refuses a change of rate, layout or sample format with a ValueError
        for frame in self._container.decode(self._stream):
            frame.pts = None
            fifo.write(frame)
            if fifo.samples >= BLOCK_FRAMES:
                yield self._mono(fifo.read())
        if fifo.samples:
            yield self._mono(fifo.read())

    def _mono(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        """A libav frame as (frames,) float32, full scale [-1, 1]."""
        if frame.sample_rate != self.info.sample_rate_hz:
            raise ValueError(f"expected {self.info.sample_rate_hz} Hz; received frames at {frame.sample_rate} Hz")
        data = frame.to_ndarray()  # (channels, frames) when planar, else (1, frames * channels)
        if not frame.format.is_planar:
            data = data.reshape(frame.samples, -1).T
        if data.dtype.kind == "f":
            samples = data.astype(np.float32, copy=False)
        elif data.dtype.kind == "u":
            samples = (data.astype(np.float32) - 128.0) / 128.0  # libav's only unsigned format has 8 bits
        else:
            samples = data.astype(np.float32) / -float(np.iinfo(data.dtype).min)
        mono: NDArray[np.float32] = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
        return mono

    def close(self) -> None:
        self._container.close()


def _descriptor(file: BinaryIO) -> int | BinaryIO:
    """The operating system's handle where there is one: libsndfile reads that without calling back into Python."""
    try:
        return file.fileno()
    except OSError:
        return file


def short(error: BaseException) -> str:
    """A decoder's message in one line."""
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:120]
