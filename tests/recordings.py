"""Recordings in every format, made from a signal whose position in time is unmistakable."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import soundfile

SOUNDFILE_KINDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
AV_KINDS = {
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("ipod", "aac"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "webm": ("webm", "libopus"),
}
KINDS = [*SOUNDFILE_KINDS, *AV_KINDS]
OPUS_RATES_HZ = (8_000, 16_000, 48_000)


def chirp(seconds: float = 3.0, rate_hz: int = 16_000) -> np.ndarray:
    """A rising tone with a burst of noise in it: (n,) float32."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = 0.3 * np.sin(2 * np.pi * (200 + 1400 * times / seconds) * times)
    burst = slice(len(times) // 3, len(times) // 3 + rate_hz // 10)
    samples[burst] += 0.2 * np.random.default_rng(0).standard_normal(len(samples[burst]))
    return samples.astype(np.float32)


def encoded(kind: str, samples: np.ndarray, rate_hz: int, **muxer_options: str) -> bytes:
    """A whole file of one of `KINDS`; samples are (n,) or (n, channels)."""
    memory = io.BytesIO()
    if kind in SOUNDFILE_KINDS:
        file_format, subtype = SOUNDFILE_KINDS[kind]
        soundfile.write(memory, samples, rate_hz, format=file_format, subtype=subtype)
        return memory.getvalue()
    container_name, codec = AV_KINDS[kind]
    channels = np.atleast_2d(samples.T).astype(np.float32)  # (channels, n)
    layout = "mono" if len(channels) == 1 else "stereo"
    with av.open(memory, "w", format=container_name, options=muxer_options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return memory.getvalue()


def lag_samples(reference: np.ndarray, received: np.ndarray) -> int:
    """By how many samples `received` comes late, at the peak of the cross-correlation."""
    size = 1 << (len(reference) + len(received)).bit_length()
    spectrum = np.fft.rfft(received, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak - size if peak > size // 2 else peak
