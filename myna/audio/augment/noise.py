"""Coloured noise at a drawn signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import scipy.fft
from pydantic import Field

from myna.audio.augment.level import with_noise
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = Literal["white", "pink", "brown", "blue", "violet"]
# Power falls with frequency as 1 / f ** exponent: 3 dB an octave for each unit.
POWER_EXPONENTS: dict[Color, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0, "violet": -2.0}
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
        rng = np.random.default_rng(parameters["noise_seed"])
        noise = colored_noise(len(clip.samples), parameters["color"], clip.sample_rate_hz, rng)
        return AudioClip(with_noise(clip.samples, noise, parameters["snr_db"]), clip.sample_rate_hz)


def colored_noise(num_samples: int, color: Color, sample_rate_hz: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise (num_samples,) without scale, of Gaussian samples.

    It is made as a spectrum. Real and imaginary parts of its lines are uniform, which is quicker to draw than normal;
    every sample is a sum over all lines and so as good as Gaussian.
    """
    length = scipy.fft.next_fast_len(max(2, num_samples), real=True)
    num_lines = length // 2 + 1
    spectrum = (rng.random(2 * num_lines, dtype=np.float32) - np.float32(0.5)).view(np.complex64)  # (num_lines,)
    if color != "white":
        hz = np.maximum(np.arange(num_lines, dtype=np.float32) * np.float32(sample_rate_hz / length), LOWEST_HZ)
        spectrum *= (hz / np.float32(1_000)) ** np.float32(-POWER_EXPONENTS[color] / 2)
    noise: NDArray[np.float32] = scipy.fft.irfft(spectrum, length)
    return noise[:num_samples]
