"""Tones, and how far off their pitch is."""

from __future__ import annotations

import numpy as np

from myna.samples import AudioClip


def tone(hz: float, rate_hz: int, seconds: float = 2.0) -> AudioClip:
    """A sine of amplitude 1."""
    return AudioClip(np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz).astype(np.float32), rate_hz)


def cents_off(samples: np.ndarray, rate_hz: int, hz: float) -> float:
    """Hundredths of a semitone between the strongest frequency and `hz`: a parabola through the peak of a long FFT."""
    length = 1 << 19
    spectrum = np.log(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), length)) + 1e-12)
    peak = int(spectrum.argmax())
    left, middle, right = spectrum[peak - 1 : peak + 2]
    found_hz = (peak + 0.5 * (left - right) / (left - 2 * middle + right)) * rate_hz / length
    return float(1200 * np.log2(found_hz / hz))
