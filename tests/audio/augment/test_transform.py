from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from myna.audio.augment.chain import AnyTransform
from myna.audio.augment.noise import Noise
from myna.audio.augment.speed import Speed
from myna.audio.augment.transform import AudioTransform
from myna.samples import AudioClip

TRANSFORMS = get_args(get_args(AnyTransform)[0])


@pytest.mark.parametrize("kind", TRANSFORMS, ids=lambda kind: kind.__name__)
def test_a_draw_can_be_logged_and_replayed(kind):
    transform = kind()
    parameters = transform.draw(np.random.default_rng(3))
    assert transform.draw(np.random.default_rng(3)) == parameters
    assert transform.draw(np.random.default_rng(4)) != parameters
    replayed = json.loads(json.dumps(parameters))
    samples = np.random.default_rng(0).standard_normal(8_000).astype(np.float32)
    if isinstance(transform, AudioTransform):
        before = samples.copy()
        first = transform.apply(AudioClip(samples, 16_000), parameters)
        again = transform.apply(AudioClip(samples, 16_000), replayed)
        assert np.array_equal(first.samples, again.samples)
        assert first.samples.dtype == np.float32
        assert first.sample_rate_hz == 16_000
        assert np.array_equal(samples, before)  # the clip itself is left alone
        assert not np.array_equal(first.samples, before)
    else:
        features = torch.from_numpy(samples).reshape(100, 80)
        before_features = features.clone()
        assert torch.equal(transform.apply(features, parameters), transform.apply(features, replayed))
        assert torch.equal(features, before_features)


@pytest.mark.parametrize("kind", TRANSFORMS, ids=lambda kind: kind.__name__)
def test_settings_are_typed_and_frozen(kind):
    for mistake in ({"probability": 1.5}, {"probability": float("nan")}, {"no_such_key": 1}):
        with pytest.raises(ValidationError):
            kind(**mistake)
    with pytest.raises(ValidationError):
        kind().probability = 0.5
    assert kind.model_validate(kind().model_dump(mode="json")) == kind()


def test_ranges_must_be_ordered():
    with pytest.raises(ValidationError, match=r"at most max_factor=0\.9 for min_factor=1\.1"):
        Speed(min_factor=1.1, max_factor=0.9)
    with pytest.raises(ValidationError, match="at most max_snr_db"):
        Noise(min_snr_db=20, max_snr_db=10)
