from __future__ import annotations

import numpy as np
import pytest
import torch

from myna.audio.augment.equalize import Equalize


def test_the_same_curve_is_added_to_every_frame():
    features = torch.randn(20, 9)
    equalized = Equalize().apply(features, {"gains": [0.0, 1.0, 2.0, 1.0, -1.0]})
    curve = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 1.5, 1.0, 0.0, -1.0])
    assert torch.allclose(equalized - features, curve.expand(20, 9), atol=1e-6)


def test_gains_have_the_deviation_asked_for():
    rng = np.random.default_rng(0)
    gains = [Equalize(gain_deviation=0.7).draw(rng)["gains"] for _ in range(2_000)]
    assert np.std(gains) == pytest.approx(0.7, rel=0.03)
    assert np.mean(gains) == pytest.approx(0.0, abs=0.03)
