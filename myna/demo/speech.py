"""Speech synthesis by espeak-ng, called in its C library: a wheel brings it, so no system package and no server.

The library keeps its state in globals. It must not be entered twice at a time, hence the lock, and it carries
noise and phase from one clip into the next: the same text sounds the same, but its samples are bit-equal only in
a fresh process with the same history. `myna.demo.corpus` builds on that to write the same corpus everywhere.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np

from myna.errors import DataError, MissingExtraError, MynaError
from myna.samples import AudioClip

MAX_TEXT_CHARACTERS = 1_000
MIN_SPEED_WPM, MAX_SPEED_WPM = 80, 450  # what espeak-ng honours
MAX_PITCH = 99
SEED = 0

# Values of enumerations in espeak-ng/speak_lib.h
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_CHARACTERS_UTF8 = 1

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """Reads text aloud. All instances share the one engine of the process.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
        MynaError: the engine does not start.
    """

    def __init__(self) -> None:
        self._engine = _engine()

    def languages(self) -> list[str]:
        """Language codes and accents, such as vi or vi-vn-x-south."""
        folder = self._engine.data_folder / "lang"
        return sorted({path.name.lower() for path in folder.rglob("*") if path.is_file()})

    def variants(self) -> list[str]:
        """Speakers that any language can be read by, such as m3 or f2."""
        return sorted(path.name for path in (self._engine.data_folder / "voices" / "!v").iterdir())

    def speak(self, text: str, voice: str, *, speed_wpm: int = 160, pitch: int = 50) -> AudioClip:
        """Read `text` aloud.

        Args:
            text: in the voice's language, at most MAX_TEXT_CHARACTERS.
            voice: a language, or a language and a variant: vi, vi+f2, vi-vn-x-south+m3.
            speed_wpm: words (in Vietnamese: syllables) a minute, 80 to 450.
            pitch: 0 to 99; 50 is the voice's own.

        Returns:
            Mono audio, 22,050 Hz.

        Raises:
            DataError: the text, voice, speed or pitch cannot be spoken.
        """
        self._check(text, voice, speed_wpm, pitch)
        samples = self._engine.synthesize(text, voice, speed_wpm, pitch)
        if not samples.any():
            raise DataError(f"expected text that {voice} can read aloud; {text!r} gave no sound")
        return AudioClip(samples.astype(np.float32) / np.float32(32_768), self._engine.sample_rate_hz)

    def _check(self, text: str, voice: str, speed_wpm: int, pitch: int) -> None:
        if not 0 < len(text) <= MAX_TEXT_CHARACTERS or "\0" in text:
            raise DataError(
                f"text: expected 1 to {MAX_TEXT_CHARACTERS:,} characters, none of them NUL; "
                f"received {len(text):,} characters"
            )
        if not MIN_SPEED_WPM <= speed_wpm <= MAX_SPEED_WPM:
            raise DataError(f"speed_wpm: expected {MIN_SPEED_WPM} to {MAX_SPEED_WPM}; received {speed_wpm}")
        if not 0 <= pitch <= MAX_PITCH:
            raise DataError(f"pitch: expected 0 to {MAX_PITCH}; received {pitch}")
        language, plus, variant = voice.partition("+")
        # espeak-ng takes an unknown variant for the plain voice, and reads paths out of names.
        if language not in self.languages() or (plus and variant not in self.variants()):
            raise DataError(f"voice: expected a language and a variant, such as vi+f2; received {voice!r}")


class _Engine:
    """The C library, started once in a process."""

    def __init__(self, library_path: str, data_folder: Path) -> None:
        self.data_folder = data_folder
        self._library = ctypes.CDLL(library_path)
        self._lock = threading.Lock()
        self._chunks: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._callback = _SynthCallback(self._take)  # the library keeps only a pointer: hold it here
        self.sample_rate_hz = self._start()

    def synthesize(self, text: str, voice: str, speed_wpm: int, pitch: int) -> np.ndarray[Any, np.dtype[np.int16]]:
        with self._lock:
            self._chunks.clear()
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise DataError(f"voice: espeak-ng has no {voice!r}")
            self._library.espeak_SetParameter(_PARAMETER_RATE, speed_wpm, 0)
            self._library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
            encoded = text.encode()
            size = len(encoded) + 1  # with the closing NUL
            self._library.espeak_Synth(encoded, ctypes.c_size_t(size), 0, 1, 0, _CHARACTERS_UTF8, None, None)
            return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)

    def _start(self) -> int:
        data_path = str(self.data_folder).encode()
        rate = int(self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _INITIALIZE_DONT_EXIT))
        if rate <= 0:
            raise MynaError(
                f"expected espeak-ng to start with its data in {self.data_folder}; it answered {rate}",
                "Reinstall it with: pip install --force-reinstall espeakng-loader",
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # else breath noise is seeded by the clock
        return rate

    def _take(self, samples: Any, num_samples: int, _events: Any) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0  # go on


@functools.cache
def _engine() -> _Engine:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError("espeakng-loader", "demo") from error
    return _Engine(espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path()))
