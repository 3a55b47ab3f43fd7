from __future__ import annotations

import pytest
import torch

from myna.models.subsampling import ConvSubsampling, frame_mask, subsampled_length


@pytest.mark.parametrize(("frames", "expected"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (3000, 750)])
def test_length_is_a_quarter_rounded_up(frames: int, expected: int) -> None:
    assert subsampled_length(frames) == expected
    assert subsampled_length(torch.tensor([frames])).tolist() == [expected]


@pytest.mark.parametrize("frames", range(1, 14))
@pytest.mark.parametrize("n_mels", [16, 17, 80])
def test_length_is_what_comes_out(frames: int, n_mels: int) -> None:
    out = ConvSubsampling(n_mels, 8)(torch.zeros(2, frames, n_mels))
    assert out.shape == (2, subsampled_length(frames), 8)


def test_no_frame_looks_ahead() -> None:
    module = ConvSubsampling(16, 8)
    features = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    module(features)[0, 3].sum().backward()
    seen = features.grad[0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert seen == list(range(6, 13))  # frame i sees 4i - 6 to 4i


def test_frame_mask() -> None:
    assert frame_mask(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False, False, False]]
