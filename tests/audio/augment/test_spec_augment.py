from __future__ import annotations

import numpy as np
import pytest
import torch

from myna.audio.augment.spec_augment import SpecAugment


def mask(width: int, position: float) -> dict[str, float]:
    return {"width": width, "position": position}


def test_masks_lie_where_the_draw_says():
    transform = SpecAugment(max_time_share=1, max_frequency_share=1)
    parameters = {"time_masks": [mask(2, 0.0)], "frequency_masks": [mask(1, 0.5)]}
    masked = transform.apply(torch.ones(5, 4), parameters)  # 4 places for one bin: 0.5 is the third
    assert masked.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1]]


def test_a_mask_reaches_the_last_frame_and_not_beyond():
    transform = SpecAugment(max_time_share=1)
    masked = transform.apply(torch.ones(10, 1), {"time_masks": [mask(3, 0.999999)], "frequency_masks": []})
    assert masked.flatten().tolist() == [1] * 7 + [0] * 3


@pytest.mark.parametrize("num_frames", [1, 10, 99, 3_000])
def test_shares_are_kept(num_frames):
    transform = SpecAugment(num_time_masks=5, max_time_frames=1_000, max_time_share=0.3, max_frequency_bins=80)
    for seed in range(50):
        masked = transform.apply(torch.ones(num_frames, 80), transform.draw(np.random.default_rng(seed)))
        frames_masked = (masked == 0).all(dim=1).float().mean()
        bins_masked = (masked == 0).all(dim=0).float().mean()
        assert frames_masked <= 0.3
        assert bins_masked <= 0.5


def test_no_masks_change_nothing():
    transform = SpecAugment(num_time_masks=0, num_frequency_masks=0)
    features = torch.randn(20, 80, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transform.apply(features, transform.draw(np.random.default_rng(0))), features)
