"""What a shard holds of each utterance: its audio, bit for bit or as flac, and a JSON file; and the tar around them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import IO, TYPE_CHECKING

import numpy as np
import soundfile

from myna.audio.addresses import fetch
from myna.audio.decode import decode, probe
from myna.audio.structure import sniff
from myna.data.clips import audio_sha256, look_at
from myna.errors import AudioError
from myna.samples import RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from myna.data.shards.layout import AudioKind
    from myna.data.shards.plan import ShardRow
    from myna.samples import AudioClip, Utterance

FLAC_RATE_HZ = 16_000
FETCHED_TOGETHER = 8  # recordings at a time: enough to hide a remote store's delay, few enough for memory


def contents(rows: Sequence[ShardRow], audio: AudioKind) -> Iterator[tuple[ShardRow, bytes | AudioError, str]]:
    """Each row's audio as it goes into the tar, with the ending of its name; or what keeps it out."""
    for start in range(0, len(rows), FETCHED_TOGETHER):
        group = rows[start : start + FETCHED_TOGETHER]
        whole = [row for row in group if row.is_whole]
        received = iter(fetch([row.utterance.audio_path for row in whole]))
        for row in group:
            try:
                content = _whole(row, next(received), audio) if row.is_whole else _segment(row, audio)
            except AudioError as error:
                yield row, error, ""
            else:
                yield row, content, sniff(io.BytesIO(content)) or "audio"


def _whole(row: ShardRow, content: bytes | AudioError, audio: AudioKind) -> bytes:
    if isinstance(content, AudioError):
        raise content
    _check_content(row, hashlib.sha256(content).hexdigest())
    return content if audio == "original" else flac(decode(content, sample_rate_hz=FLAC_RATE_HZ))


def _segment(row: ShardRow, audio: AudioKind) -> bytes:
    utterance = row.utterance
    request = look_at(utterance.audio_path, None, None)
    _check_content(row, audio_sha256(utterance.audio_path, request.size_bytes, request.mtime_ns))
    rate_hz = FLAC_RATE_HZ if audio == "flac" else probe(utterance.audio_path).sample_rate_hz
    clip = decode(
        utterance.audio_path,
        offset_seconds=utterance.offset_seconds,
        duration_seconds=utterance.duration_seconds,
        sample_rate_hz=rate_hz,
    )
    return flac(clip)


def _check_content(row: ShardRow, sha256: str) -> None:
    """A shard must hold what the dataset version does, not what the file holds by now."""
    if sha256 != row.audio_sha256:
        detail = f"changed since it was prepared: expected sha256 {row.audio_sha256[:12]}...; received {sha256[:12]}..."
        raise AudioError(RefusalReason.UNREADABLE, detail)


def flac(clip: AudioClip) -> bytes:
    """16-bit flac of a clip; exact where the samples came from 16 bits at this rate."""
    scaled = np.clip(np.rint(clip.samples * 32_768.0), -32_768, 32_767).astype(np.int16)
    memory = io.BytesIO()
    soundfile.write(memory, scaled, clip.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return memory.getvalue()


def description(utterance: Utterance, sha256: str) -> bytes:
    """The JSON beside the audio."""
    fields = {
        "utterance_id": utterance.utterance_id,
        "transcript": utterance.transcript,
        "text": utterance.text,
        "duration_seconds": utterance.duration_seconds,
        "split": utterance.split,
        "speaker_id": utterance.speaker_id,
        "language": utterance.language,
        "sha256": sha256,
    }
    return json.dumps(fields, ensure_ascii=False).encode()


class TarWriter:
    """A tar whose bytes depend on names and contents alone, hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def add(self, name: str, content: bytes) -> int:
        """Write a member; returns where its content starts."""
        member = tarfile.TarInfo(name)  # time, owner and group stay 0
        member.size = len(content)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        offset_bytes = self.size_bytes
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset_bytes

    def finish(self) -> str:
        """Write the end; returns the sha256 of the whole."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        return self._digest.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size_bytes += len(content)
