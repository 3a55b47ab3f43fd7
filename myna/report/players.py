"""Recordings inside the page: MP3, which every browser plays, as data URLs within a limit of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import soundfile

from myna.audio.decode import decode
from myna.errors import MynaError

MAX_AUDIO_BYTES = 8_000_000  # of all players of a page together, as it stands in the page
MAX_CLIP_SECONDS = 30.0  # of one player
COMPRESSION = 0.9  # of libsndfile's MP3: about 4 kB a second of speech at 16 kHz


@dataclass(frozen=True, slots=True)
class Player:
    """The sound of one utterance, or why there is none."""

    source: str  # data: URL, "" for none
    note: str = ""


class Players:
    """Makes players until their limit is reached.

    Args:
        max_bytes: of all of them together.
    """

    def __init__(self, max_bytes: int = MAX_AUDIO_BYTES) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.count = 0
        self._is_full = False

    def player(self, audio_path: str, offset_seconds: float, duration_seconds: float) -> Player:
        """The player of a recording's segment; one that cannot be read or has no room left says so."""
        if self._is_full:
            return Player("", f"no player: the {self.max_bytes / 1e6:g} MB for recordings are used up")
        try:
            source = _data_url(audio_path, offset_seconds, min(duration_seconds, MAX_CLIP_SECONDS))
        except (MynaError, soundfile.SoundFileError, ValueError) as error:
            return Player("", f"no player: {error}")
        if self.used_bytes + len(source) > self.max_bytes:
            self._is_full = True  # also for shorter ones to come, so that the page has those at its top
            return self.player(audio_path, offset_seconds, duration_seconds)
        self.used_bytes += len(source)
        self.count += 1
        is_cut = duration_seconds > MAX_CLIP_SECONDS
        return Player(source, f"the first {MAX_CLIP_SECONDS:g} of {duration_seconds:.1f} s" if is_cut else "")


def _data_url(audio_path: str, offset_seconds: float, duration_seconds: float) -> str:
    clip = decode(audio_path, offset_seconds=offset_seconds, duration_seconds=duration_seconds)
    file = io.BytesIO()
    soundfile.write(file, clip.samples, clip.sample_rate_hz, format="MP3", compression_level=COMPRESSION)
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
