from __future__ import annotations

import io

import av
import numpy as np
import pytest

from myna.augment.picture import _palette, as_png, spectrogram_db
from myna.samples import AudioClip


def pixels(png: bytes) -> np.ndarray:
    with av.open(io.BytesIO(png)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_tone_is_a_line_at_its_frequency_and_level():
    times = np.arange(16_000) / 16_000
    levels = spectrogram_db(AudioClip((0.1 * np.sin(2 * np.pi * 2_000 * times)).astype(np.float32), 16_000))
    assert levels.shape == (257, 101)
    middle = levels[:, 50]
    assert 256 - middle.argmax() == 64  # of 256 bins up to 8,000 Hz
    assert middle.max() == pytest.approx(-20, abs=0.2)


def test_values_become_colours():
    png = as_png(np.array([[0.0, 5.0], [10.0, 99.0]], np.float32), 0, 10, 3)
    assert png.startswith(b"\x89PNG")
    colours = pixels(png)
    assert colours.shape == (2, 3, 3)
    assert colours[0, 0].tolist() == [0x44, 0x01, 0x54]
    assert colours[1, 0].tolist() == colours[1, 1].tolist() == [0xFD, 0xE7, 0x25]
    assert colours[0, 2].tolist() == [128, 128, 128]  # after the end


def test_brighter_means_more():
    red, green, blue = (_palette() / 255.0).T
    linear = [np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) for part in (red, green, blue)]
    lightness = 116 * np.cbrt(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) - 16  # CIE L*
    tenths = np.diff(lightness[::25])
    assert 0 < tenths.max() < 1.5 * tenths.min()  # and evenly so
