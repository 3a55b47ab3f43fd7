"""Folders of noise and of impulse responses, as the transforms that mix recordings in want them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from transforms import TRANSFORMS, with_defaults

from myna.audio.augment.transform import AudioTransform, Transform


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, one of them in a subfolder and shorter than most clips."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    (folder / "street").mkdir()
    soundfile.write(folder / "hum.wav", 0.1 * rng.standard_normal(48_000), 16_000)
    soundfile.write(folder / "street" / "car.flac", 0.1 * rng.standard_normal(4_000), 8_000)
    return folder


@pytest.fixture(scope="session")
def room_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A response with the direct sound at 30 ms and one echo, half as high and 100 ms later."""
    folder = tmp_path_factory.mktemp("rooms")
    response = np.zeros(8_000)
    response[480], response[480 + 1_600] = 0.8, 0.4
    soundfile.write(folder / "hall.wav", response, 16_000, subtype="FLOAT")
    return folder


@pytest.fixture(params=TRANSFORMS, ids=lambda kind: kind.__name__)
def transform(request: pytest.FixtureRequest, noise_folder: Path, room_folder: Path) -> Transform:
    """Each transform with its default settings."""
    return with_defaults(request.param, noise_folder, room_folder)


@pytest.fixture(
    params=[kind for kind in TRANSFORMS if issubclass(kind, AudioTransform)], ids=lambda kind: kind.__name__
)
def audio_transform(request: pytest.FixtureRequest, noise_folder: Path, room_folder: Path) -> AudioTransform:
    """Each transform of samples with its default settings."""
    return with_defaults(request.param, noise_folder, room_folder)
