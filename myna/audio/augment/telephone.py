"""A telephone line: 300 to 3,400 Hz, 8 kHz, eight bits a sample in mu-law (ITU-T G.711)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import soxr
from pydantic import Field
from scipy.signal import butter, sosfilt

from myna.audio.augment.length import fitted
from myna.audio.augment.level import at_power, power
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE_RATE_HZ = 8_000
BAND_HZ = (300.0, 3_400.0)
FULL_SCALE = 32_768  # of 16-bit samples
_MU_LAW_BIAS = 132  # G.711: added before the logarithm, so that its first segment starts at 0
_MU_LAW_CLIP = 32_635


class Telephone(AudioTransform):
    """Sends the clip over a line; it comes back as loud as it was.

    The level on the line decides how much of the mu-law steps is heard: a loud speaker is clipped, a faint one drowns
    in steps.
    """

    type: Literal["telephone"] = "telephone"
    min_line_level_dbfs: float = Field(default=-40.0, ge=-80, le=0)  # RMS over the clip
    max_line_level_dbfs: float = Field(default=-16.0, ge=-80, le=0)

    def draw(self, rng: np.random.Generator) -> Parameters:
        return {"line_level_dbfs": float(rng.uniform(self.min_line_level_dbfs, self.max_line_level_dbfs))}

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        rate = clip.sample_rate_hz
        line = clip.samples if rate == LINE_RATE_HZ else soxr.resample(clip.samples, rate, LINE_RATE_HZ)
        line = sosfilt(_band(), line) if len(line) else line
        heard = mu_law(at_power(line, 10 ** (parameters["line_level_dbfs"] / 10)))
        heard = heard if rate == LINE_RATE_HZ else soxr.resample(heard, LINE_RATE_HZ, rate)
        return AudioClip(fitted(at_power(heard, power(clip.samples)), len(clip.samples)), rate)


def mu_law(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples after G.711 mu-law and back; what is beyond full scale is clipped."""
    pcm = np.clip(np.rint(samples * np.float32(FULL_SCALE)), -FULL_SCALE, FULL_SCALE - 1).astype(np.int32)
    heard: NDArray[np.float32] = _mu_law_table()[pcm + FULL_SCALE]
    return heard


@cache
def _mu_law_table() -> NDArray[np.float32]:
    """What each of the 65,536 values of 16-bit audio comes back as."""
    pcm = np.arange(-FULL_SCALE, FULL_SCALE)
    biased = np.minimum(np.abs(pcm), _MU_LAW_CLIP) + _MU_LAW_BIAS  # 132 to 32,767
    segment = np.floor(np.log2(biased)).astype(int) - 7  # 0 to 7
    step = (biased >> (segment + 3)) & 0xF  # 16 even steps in each segment
    magnitude = (((step << 3) + _MU_LAW_BIAS) << segment) - _MU_LAW_BIAS
    table: NDArray[np.float32] = (np.sign(pcm) * magnitude / FULL_SCALE).astype(np.float32)
    return table


@cache
def _band() -> NDArray[np.float32]:
    sections: NDArray[np.float32] = np.array(butter(4, BAND_HZ, "bandpass", fs=LINE_RATE_HZ, output="sos"), np.float32)
    return sections
