"""What a recording's bytes say without decoding: which format it is, and whether the file was cut off.

Only headers are read, and each check looks for the one thing in its format that only a whole file has: a declared
length that fits, an end-of-stream page, a complete last frame.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A file short by less than about one compressed frame (47 ms of 16 kHz 16-bit PCM) counts as whole: writers miscount.
TOLERATED_MISSING_BYTES = 1_500
MAX_BOXES = 10_000  # chunks or boxes looked at before giving up on a strange file
MAX_OGG_PAGE_BYTES = 65_307
UNKNOWN_RIFF_BYTES = 0x7FFF_F000  # streaming writers put 0x7FFFF000 to 0xFFFFFFFF where they do not know the size

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ADTS_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_FRAME_SAMPLES = 1024


def sniff(file: BinaryIO) -> str:
    """The format by its first bytes, "" when they are none that we know."""
    head = _read(file, _after_id3(file), 12)
    for start, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b".snd", "au"), (b"caff", "caf"), (b"riff", "w64")):
        if head.startswith(start):
            return name
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return "rf64" if head[:4] == b"RF64" else "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "m4a"
    if head.startswith(ASF_HEADER[:12]):
        return "wma"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # 11 bits of sync, then version and layer
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    return ""


def cut_off(file: BinaryIO) -> str:
    """How one sees that the file ends too early; "" when nothing says so."""
    check = _CHECKS.get(sniff(file))
    return "" if check is None else check(file, size_bytes(file))


def adts_seconds(file: BinaryIO) -> float | None:
    """Length of a raw AAC stream without its one frame of encoder delay, by walking its frame headers."""
    count, rate_hz = 0, 0
    for header, _ in _adts_frames(file):
        rate_index = header[2] >> 2 & 0xF
        rate_hz = ADTS_RATES_HZ[rate_index] if rate_index < len(ADTS_RATES_HZ) else 0
        count += 1 + (header[6] & 3)  # a frame holds one to four blocks of 1024 samples
    return max(0, count - 1) * AAC_FRAME_SAMPLES / rate_hz if rate_hz else None


def size_bytes(file: BinaryIO) -> int:
    """Length of the whole file."""
    return file.seek(0, os.SEEK_END)


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _after_id3(file: BinaryIO) -> int:
    """Where the audio starts behind an ID3v2 tag, whose size has seven bits a byte."""
    head = _read(file, 0, 10)
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _beyond(declared_end: int, size: int) -> str:
    if declared_end - size <= TOLERATED_MISSING_BYTES:
        return ""
    return f"expected {declared_end:,} bytes, as its header declares; received {size:,}"


def _riff(file: BinaryIO, size: int) -> str:
    big_endian = _read(file, 0, 4) in (b"FORM", b"RIFX")
    offset = 12
    for _ in range(MAX_BOXES):
        head = _read(file, offset, 8)
        if len(head) < 8:
            return ""
        (length,) = struct.unpack(">I" if big_endian else "<I", head[4:])
        if head[:4] in (b"data", b"SSND"):
            return "" if length >= UNKNOWN_RIFF_BYTES else _beyond(offset + 8 + length, size)
        offset += 8 + length + length % 2
    return ""


def _ogg(file: BinaryIO, size: int) -> str:
    tail = _read(file, max(0, size - MAX_OGG_PAGE_BYTES), MAX_OGG_PAGE_BYTES)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last ogg page is not complete"
    return "" if page[5] & 4 else "its last ogg page does not end the stream"


def _mp4(file: BinaryIO, size: int) -> str:
    offset, has_index = 0, False
    for _ in range(MAX_BOXES):
        head = _read(file, offset, 16) if offset < size else b""
        if len(head) < 8:
            break
        (length,) = struct.unpack(">I", head[:4])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        has_index |= head[4:8] == b"moov"
        if length < 8:  # 0: the rest of the file
            break
        offset += length
    return _beyond(offset, size) or ("" if has_index else "it has no moov box, which holds the index")


def _asf(file: BinaryIO, size: int) -> str:
    head = _read(file, 0, 4096)
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return ""
    (declared,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    return "" if flags & 1 else _beyond(declared, size)  # bit 0: a broadcast, whose size was not known


def _webm(file: BinaryIO, size: int) -> str:
    offset = 4
    length, width = _ebml_size(_read(file, offset, 8))
    offset += width + length
    if _read(file, offset, 4) != b"\x18\x53\x80\x67":  # Segment
        return ""
    length, width = _ebml_size(_read(file, offset + 4, 8))
    return "" if length == (1 << 7 * width) - 1 else _beyond(offset + 4 + width + length, size)  # all ones: unknown


def _ebml_size(data: bytes) -> tuple[int, int]:
    """Value and width in bytes of a variable-length integer; leading zero bits count its further bytes."""
    if not data or not data[0]:
        return 0, 1
    width = 9 - data[0].bit_length()
    return int.from_bytes(data[:width], "big") & (1 << 7 * width) - 1, width


def _mp3(file: BinaryIO, size: int) -> str:
    start = _after_id3(file)
    head = _read(file, start, 200)  # a Xing header lies in the first frame, after 13 to 36 bytes
    at = max(head.find(b"Xing", 0, 44), head.find(b"Info", 0, 44))
    if at < 0 or len(head) < at + 16:
        return ""
    (flags,) = struct.unpack_from(">I", head, at + 4)
    if not flags & 2:
        return ""
    (length,) = struct.unpack_from(">I", head, at + (12 if flags & 1 else 8))
    return _beyond(start + length, size)


def _adts(file: BinaryIO, size: int) -> str:
    end = max((end for _, end in _adts_frames(file)), default=0)
    return "its last aac frame is not complete" if end > size else ""


def _adts_frames(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each frame's header of 7 bytes, and where the frame ends."""
    offset = _after_id3(file)
    while len(header := _read(file, offset, 7)) == 7 and header[0] == 0xFF and header[1] & 0xF6 == 0xF0:
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        if length < 7:
            return
        offset += length
        yield header, offset


_CHECKS: dict[str, Callable[[BinaryIO, int], str]] = {
    "wav": _riff,
    "aiff": _riff,
    "ogg": _ogg,
    "m4a": _mp4,
    "wma": _asf,
    "webm": _webm,
    "mp3": _mp3,
    "aac": _adts,
}
