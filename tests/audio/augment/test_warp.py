from __future__ import annotations

import numpy as np
import pytest
import torch

from myna.audio.augment.warp import Warp


def ridge(features: torch.Tensor) -> list[int]:
    """The loudest bin of each frame."""
    return features.argmax(dim=1).tolist()


def test_no_stretch_changes_nothing():
    features = torch.randn(30, 16)
    warped = Warp().apply(features, {"time_factor": 1.0, "frequency_factor": 1.0})
    assert torch.allclose(warped, features, atol=1e-5)


def test_time_is_stretched_and_bins_stay():
    features = torch.zeros(40, 16)
    features[10:20, 5] = 1.0
    warped = Warp().apply(features, {"time_factor": 2.0, "frequency_factor": 1.0})
    assert warped.shape == (80, 16)
    loud = (warped[:, 5] > 0.5).nonzero().flatten()
    assert (int(loud[0]), int(loud[-1])) == (20, 39)
    assert not warped[:, [4, 6]].any()


@pytest.mark.parametrize(("factor", "bin_"), [(0.5, 20), (1.25, 8)])
def test_frequency_is_stretched_and_frames_stay(factor, bin_):
    features = torch.zeros(12, 32)
    features[:, 10] = 1.0
    assert ridge(Warp().apply(features, {"time_factor": 1.0, "frequency_factor": factor})) == [bin_] * 12


def test_factors_keep_to_their_ranges_and_are_even_on_a_logarithmic_scale():
    warp = Warp(min_time_factor=0.5, max_time_factor=2.0)
    rng = np.random.default_rng(0)
    factors = np.array([warp.draw(rng)["time_factor"] for _ in range(2_000)])
    assert 0.5 <= factors.min() < 0.52
    assert 1.95 < factors.max() <= 2.0
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.03)


def test_a_short_clip_keeps_some_frames():
    assert len(Warp().apply(torch.randn(3, 16), {"time_factor": 0.5, "frequency_factor": 1.0})) == 8
