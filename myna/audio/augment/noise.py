"""Coloured noise at a drawn signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import Field

from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = Literal["white", "pink", "brown"]
# Power falls with frequency as 1 / f ** exponent.
POWER_EXPONENTS: dict[Color, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
LOWEST_HZ = 20.0  # the spectrum is flat below: brown noise would otherwise be one slow wave that nobody hears


class Noise(AudioTransform):
    """Adds noise whose power is `snr_db` below the clip's own, both measured over the whole clip."""

    type: Literal["noise"] = "noise"
    min_snr_db: float = Field(default=5.0, ge=-20, le=100)
    max_snr_db: float = Field(default=30.0, ge=-20, le=100)
    colors: tuple[Color, ...] = Field(default=get_args(Color), min_length=1)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {
            "snr_db": float(rng.uniform(self.min_snr_db, self.max_snr_db)),
            "color": self.colors[rng.integers(len(self.colors))],
            "noise_seed": int(rng.integers(2**32)),
        }

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        noise = colored_noise(
            len(clip.samples), parameters["color"], clip.sample_rate_hz, np.random.default_rng(parameters["noise_seed"])
        )
        signal_power = np.mean(np.square(clip.samples, dtype=np.float64))
        noise_power = np.mean(np.square(noise))
        gain = np.sqrt(signal_power / noise_power / 10 ** (parameters["snr_db"] / 10))
        return AudioClip((clip.samples + gain * noise).astype(np.float32), clip.sample_rate_hz)


def colored_noise(num_samples: int, color: Color, sample_rate_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise (num_samples,) without scale: white noise with its spectrum bent."""
    if color == "white":
        return rng.standard_normal(num_samples)
    length = 1 << num_samples.bit_length()  # a power of two, fast whatever the clip's length
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hz = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate_hz), LOWEST_HZ)
    bent: NDArray[np.float64] = np.fft.irfft(spectrum * hz ** (-POWER_EXPONENTS[color] / 2), length)
    return bent[:num_samples]
