"""How loud samples are, and sums at a signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def power(samples: NDArray[np.float32]) -> float:
    """Mean square; 0 without samples. Summed pairwise, so the same on every machine, whatever its threads."""
    return float(np.sum(np.square(samples))) / max(1, len(samples))


def at_power(samples: NDArray[np.float32], wanted: float) -> NDArray[np.float32]:
    """The samples scaled to a mean square; silence stays silent."""
    there = power(samples)
    return samples * np.float32(np.sqrt(wanted / there)) if there > 0 else samples


def with_noise(samples: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """The sum of both, the noise's power `snr_db` below the samples', each over its whole length (N,)."""
    return samples + at_power(noise, power(samples) / 10 ** (snr_db / 10))
