"""What lossy compression leaves of a clip: really encoded and decoded, in memory."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
import soxr
from pydantic import Field

from myna.audio.augment.length import fitted
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CodecName = Literal["mp3", "mp2"]
Bitrate = Literal[8, 16, 24, 32, 40, 48, 56, 64]  # kbit/s that both know at the rates of speech
# Encoder, format of its samples, decoder, options.
LIBRARIES: dict[CodecName, tuple[str, str, str, dict[str, str]]] = {
    "mp3": ("libmp3lame", "fltp", "mp3float", {"compression_level": "9"}),  # 9 is LAME's quickest
    "mp2": ("mp2", "s16", "mp2float", {}),
}
# The mp3 family's sample rates. mp2 knows no rate below 16 kHz.
RATES_HZ: dict[CodecName, tuple[int, ...]] = {
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "mp2": (16_000, 22_050, 24_000),  # above, it would not know all of the bit rates
}


class Codec(AudioTransform):
    """Encodes the clip at `bitrate_kbps` and decodes it; length and place stay, the encoder's delay is taken away.

    mp2 is mp3's elder sister: it hides its noise by the same model of hearing in the bands of the same filters, and is
    some six times as quick.
    """

    type: Literal["codec"] = "codec"
    codecs: tuple[CodecName, ...] = Field(default=("mp3", "mp2"), min_length=1)
    bitrates_kbps: tuple[Bitrate, ...] = Field(default=(16, 24, 32, 48, 64), min_length=1)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {
            "codec": self.codecs[rng.integers(len(self.codecs))],
            "bitrate_kbps": self.bitrates_kbps[rng.integers(len(self.bitrates_kbps))],
        }

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        rate = clip.sample_rate_hz
        known_rates = RATES_HZ[parameters["codec"]]
        codec_rate = min((known for known in known_rates if known >= rate), default=known_rates[-1])
        samples = clip.samples if rate == codec_rate else soxr.resample(clip.samples, rate, codec_rate)
        peak = max(1.0, float(np.abs(samples).max(initial=0)))  # coders clip what is beyond full scale
        heard = through_codec(samples / np.float32(peak), codec_rate, parameters["codec"], parameters["bitrate_kbps"])
        heard = heard if rate == codec_rate else soxr.resample(heard, codec_rate, rate)
        return AudioClip(fitted(heard * np.float32(peak), len(clip.samples)), rate)


def through_codec(
    samples: NDArray[np.float32], sample_rate_hz: int, codec: CodecName, bitrate_kbps: int
) -> NDArray[np.float32]:
    """Samples (N,) within full scale, encoded and decoded, (N,) in the same place."""
    encoder_name, sample_format, decoder_name, options = LIBRARIES[codec]
    encoder = av.CodecContext.create(encoder_name, "w")
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate_hz, "mono", sample_format
    encoder.bit_rate = bitrate_kbps * 1000
    encoder.time_base = Fraction(1, sample_rate_hz)
    encoder.options = options
    encoder.open()
    if sample_format == "s16":
        samples = np.rint(samples * np.float32(32_767)).astype(np.int16)  # type: ignore[assignment]
    decoder = av.CodecContext.create(decoder_name, "r")
    frames = [*_frames(samples, encoder, sample_format), None]  # None asks for what is still held back
    packets = [packet for frame in frames for packet in encoder.encode(frame)]
    heard = [decoded for packet in [*packets, None] for decoded in decoder.decode(packet)]
    # The mp3 decoder drops the delay by itself and mp2's does not; what the first frame has left ends at the second.
    delay = heard[0].samples - heard[1].pts
    return fitted(np.concatenate([frame.to_ndarray()[0] for frame in heard])[delay:], len(samples))


def _frames(samples: NDArray[Any], encoder: av.AudioCodecContext, sample_format: str) -> Iterator[av.AudioFrame]:
    """The samples, then a frame of silence, so that no coder loses the end, in frames of the encoder's size."""
    size = encoder.frame_size
    padded = np.pad(samples, (0, size + -len(samples) % size))
    for start in range(0, len(padded), size):
        frame = av.AudioFrame.from_ndarray(padded[None, start : start + size], sample_format, "mono")
        frame.sample_rate, frame.pts = encoder.sample_rate, start
        yield frame
