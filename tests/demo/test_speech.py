"""The synthesiser: voices that differ, settings that work, mistakes that are told, threads that wait their turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from myna.demo.corpus import VOICES
from myna.demo.speech import MAX_TEXT_CHARACTERS, Synthesizer
from myna.errors import DataError
from myna.samples import AudioClip

TEXT = "bật đèn phòng khách"


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def spectrum(clip: AudioClip) -> np.ndarray:
    """Mean log power in 32 bands: what tells one throat from another."""
    frames = clip.samples[: len(clip.samples) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, :256].mean(axis=0)
    return np.log10(power.reshape(32, 8).mean(axis=1) + 1e-9)


def test_speaks(synthesizer: Synthesizer) -> None:
    clip = synthesizer.speak(TEXT, "vi")
    assert clip.sample_rate_hz == 22_050
    assert 0.5 < clip.duration_seconds < 2.5
    assert clip.samples.dtype == np.float32
    assert 0.2 < np.abs(clip.samples).max() <= 1


def test_every_voice_of_the_corpus_exists_and_sounds_unlike_the_others(synthesizer: Synthesizer) -> None:
    voices = [voice for voices in VOICES.values() for voice in voices]
    spectra = [spectrum(synthesizer.speak(TEXT, voice)) for voice in voices]
    distances = [
        (np.abs(one - other).mean(), voices[i], voices[j])
        for i, one in enumerate(spectra)
        for j, other in enumerate(spectra[:i])
    ]
    again = np.abs(spectrum(synthesizer.speak(TEXT, voices[0])) - spectra[0]).mean()
    assert min(distances)[0] > 2 * again, min(distances)


def test_accents_differ(synthesizer: Synthesizer) -> None:
    accents = ("vi", "vi-vn-x-central", "vi-vn-x-south")
    assert set(accents) <= set(synthesizer.languages())
    north, central, south = (synthesizer.speak(TEXT, accent).duration_seconds for accent in accents)
    assert len({round(north, 2), round(central, 2), round(south, 2)}) == 3


def test_faster_is_shorter(synthesizer: Synthesizer) -> None:
    slow, fast = (synthesizer.speak(TEXT, "vi", speed_wpm=speed).duration_seconds for speed in (100, 200))
    assert slow / fast == pytest.approx(2, rel=0.2)


def test_higher_pitch_is_higher(synthesizer: Synthesizer) -> None:
    def fundamental_hz(pitch: int) -> float:
        clip = synthesizer.speak("ma ma ma", "vi+m1", pitch=pitch)
        middle = clip.samples[len(clip.samples) // 3 :][:4_096]
        correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
        return clip.sample_rate_hz / (60 + int(np.argmax(correlation[60:400])))  # 55 to 370 Hz

    assert fundamental_hz(80) > 1.2 * fundamental_hz(40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voice": "xx"}, "expected a language"),
        ({"voice": "vi+nobody"}, "expected a language"),
        ({"voice": "vi+../../lang/aav/vi"}, "expected a language"),
        ({"text": ""}, "expected 1 to 1,000 characters"),
        ({"text": "a" * (MAX_TEXT_CHARACTERS + 1)}, "expected 1 to 1,000 characters"),
        ({"text": "xin\0chào"}, "none of them NUL"),
        ({"text": "  "}, "gave no sound"),
        ({"speed_wpm": 10}, "expected 80 to 450"),
        ({"pitch": 100}, "expected 0 to 99"),
    ],
)
def test_mistakes_are_told(synthesizer: Synthesizer, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        synthesizer.speak(**{"text": TEXT, "voice": "vi", **arguments})  # type: ignore[arg-type]


def test_threads_do_not_mix_their_speech(synthesizer: Synthesizer) -> None:
    alone = [synthesizer.speak(TEXT, voice).duration_seconds for voice in VOICES["test"]]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda voice: Synthesizer().speak(TEXT, voice).duration_seconds, VOICES["test"])
    assert list(together) == pytest.approx(alone, abs=0.05)
