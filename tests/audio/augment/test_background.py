from __future__ import annotations

import numpy as np
import pytest

from myna.audio.augment.background import Background
from myna.audio.augment.recordings import recordings_in
from myna.audio.decode import decode
from myna.samples import AudioClip


def speech(num_samples: int, rate_hz: int = 16_000) -> AudioClip:
    return AudioClip((0.2 * np.sin(np.arange(num_samples) * 0.1)).astype(np.float32), rate_hz)


@pytest.mark.parametrize("name", ["hum.wav", "street/car.flac"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 40.0])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_snr_is_exact(noise_folder, name, snr_db, rate_hz):
    clip = speech(30_000, rate_hz)
    parameters = {"file": name, "start_share": 0.3, "snr_db": snr_db}
    noisy = Background(folder=str(noise_folder)).apply(clip, parameters)
    added = noisy.samples.astype(np.float64) - clip.samples
    assert 10 * np.log10(np.mean(np.square(clip.samples)) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)


def test_the_stretch_starts_where_the_draw_says_and_starts_over(noise_folder):
    clip = speech(60_000)
    noise = decode(noise_folder / "hum.wav").samples  # 48,000 samples
    noisy = Background(folder=str(noise_folder)).apply(clip, {"file": "hum.wav", "start_share": 0.75, "snr_db": 0.0})
    added = noisy.samples - clip.samples
    expected = np.concatenate([noise[36_000:], noise])
    assert np.corrcoef(added, expected)[0, 1] > 0.9999


def test_real_noise_at_its_snr(shared):
    background = Background(folder=str(shared / "corpora" / "noise_and_rooms" / "noise"))
    assert background.check() == []
    clip = speech(80_000)
    for seed in range(10):
        parameters = background.draw(np.random.default_rng(seed))
        added = background.apply(clip, parameters).samples.astype(np.float64) - clip.samples
        snr_db = 10 * np.log10(np.mean(np.square(clip.samples)) / np.mean(added**2))
        assert snr_db == pytest.approx(parameters["snr_db"], abs=0.1)


def test_both_files_are_drawn_by_names_relative_to_the_folder(noise_folder):
    background = Background(folder=str(noise_folder))
    assert {background.draw(np.random.default_rng(n))["file"] for n in range(30)} == {"hum.wav", "street/car.flac"}


def test_another_place_with_the_same_files_draws_the_same(noise_folder, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(noise_folder, moved)
    here, there = Background(folder=str(noise_folder)), Background(folder=str(moved))
    assert here.contents() == there.contents()
    for seed in range(5):
        parameters = here.draw(np.random.default_rng(seed))
        assert there.draw(np.random.default_rng(seed)) == parameters
        outcomes = [place.apply(speech(9_000), parameters).samples for place in (here, there)]
        assert np.array_equal(*outcomes)
    recordings_in.cache_clear()
