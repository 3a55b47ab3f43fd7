"""Speech through an impulse response, in its place and as loud as before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.fft

from myna.audio.augment.level import at_power, power

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS_PER_RESPONSE = 2  # length of a block of samples, in responses


def reverberated(samples: NDArray[np.float32], response: NDArray[np.float32], direct: int) -> NDArray[np.float32]:
    """The samples (N,) as heard through a response, with the direct sound where it was.

    Args:
        samples: of speech.
        response: (M,) of a room.
        direct: where in the response the direct sound arrives; that delay is taken away.
    """
    heard = convolved(samples, response)[direct : direct + len(samples)]
    return at_power(heard, power(samples))


def convolved(samples: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """The full convolution (N + M - 1,), by overlap-add: one FFT over many blocks is quicker than one long one."""
    length = len(samples) + len(response) - 1
    size = scipy.fft.next_fast_len(min(length, (BLOCKS_PER_RESPONSE + 1) * len(response)), real=True)
    step = size - len(response) + 1
    num_blocks = -(-len(samples) // step)
    blocks = np.zeros((num_blocks, step), np.float32)
    blocks.reshape(-1)[: len(samples)] = samples
    spectra = scipy.fft.rfft(blocks, size)  # (blocks, size / 2 + 1)
    spectra *= scipy.fft.rfft(response, size)
    heard = scipy.fft.irfft(spectra, size)  # (blocks, size); the last M - 1 of each lie over the next block
    whole = np.zeros(num_blocks * step + len(response) - 1, np.float32)
    for number, block in enumerate(heard):
        whole[number * step : number * step + size] += block
    return whole[:length]
