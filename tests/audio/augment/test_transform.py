from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transforms import TRANSFORMS, with_defaults

from myna.audio.augment.noise import Noise
from myna.audio.augment.speed import Speed
from myna.audio.augment.transform import AudioTransform
from myna.samples import AudioClip

CHANGES_LENGTH = {"edges", "speed", "stretch"}
DRAWS_LITTLE = {"impulse_response"}  # one file is all there is to draw


def speech_like(seconds: float, rate_hz: int) -> np.ndarray:
    """A buzz of harmonics that swells, then a pause with faint noise."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    buzz = sum(np.sin(2 * np.pi * 140 * k * times) / k for k in range(1, 20) if 140 * k < rate_hz / 2)
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(times))
    return (0.1 * buzz * (times < 0.7 * seconds) + noise).astype(np.float32)


def test_a_draw_can_be_logged_and_replayed(transform):
    parameters = transform.draw(np.random.default_rng(3))
    assert transform.draw(np.random.default_rng(3)) == parameters
    if transform.type not in DRAWS_LITTLE:
        assert any(transform.draw(np.random.default_rng(seed)) != parameters for seed in range(4, 9))
    replayed = json.loads(json.dumps(parameters))
    assert replayed == parameters
    if isinstance(transform, AudioTransform):
        samples = speech_like(0.5, 16_000)
        before = samples.copy()
        first = transform.apply(AudioClip(samples, 16_000), parameters)
        again = transform.apply(AudioClip(samples, 16_000), replayed)
        assert np.array_equal(first.samples, again.samples)
        assert np.array_equal(samples, before)  # the clip itself is left alone
        assert not np.shares_memory(first.samples, samples)
        assert not np.array_equal(first.samples, before)
    else:
        features = torch.randn(100, 80, generator=torch.Generator().manual_seed(0))
        before_features = features.clone()
        assert torch.equal(transform.apply(features, parameters), transform.apply(features, replayed))
        assert torch.equal(features, before_features)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(
    ("seconds", "gain"),
    [(1.0, 1.0), (1.0, 20.0), (1.0, 0.0), (0.1, 1.0), (0.0001, 1.0)],
    ids=lambda value: f"{value:g}",
)
def test_any_clip_comes_out_finite_at_its_rate(audio_transform, rate_hz, seconds, gain):
    clip = AudioClip(speech_like(seconds, rate_hz) * np.float32(gain), rate_hz)
    for seed in range(4):
        changed = audio_transform.apply(clip, audio_transform.draw(np.random.default_rng(seed)))
        assert changed.sample_rate_hz == rate_hz
        assert changed.samples.dtype == np.float32
        assert np.isfinite(changed.samples).all()
        assert len(changed.samples) == len(clip.samples) or audio_transform.type in CHANGES_LENGTH
        assert changed.samples.any() or gain == 0 or seconds < 0.1
        assert changed.duration_seconds <= audio_transform.longest_seconds(clip.duration_seconds) + 1 / rate_hz
        if gain == 0:
            assert not changed.samples.any()


def test_settings_are_typed_and_frozen(transform):
    kind, settings = type(transform), transform.model_dump(mode="json")
    for mistake in ({"probability": 1.5}, {"probability": float("nan")}, {"no_such_key": 1}):
        with pytest.raises(ValidationError):
            kind(**settings | mistake)
    with pytest.raises(ValidationError):
        transform.probability = 0.5
    assert kind.model_validate(settings) == transform


def test_all_is_well_with_the_defaults(transform):
    assert transform.check() == []


def test_ranges_must_be_ordered():
    with pytest.raises(ValidationError, match=r"at most max_factor=0\.9 for min_factor=1\.1"):
        Speed(min_factor=1.1, max_factor=0.9)
    with pytest.raises(ValidationError, match="at most max_snr_db"):
        Noise(min_snr_db=20, max_snr_db=10)


DIGESTS = """
import hashlib, sys
import numpy as np
sys.path[:0] = {paths!r}
from test_transform import speech_like
from myna.audio.augment.chain import Chain, rng_for
from myna.samples import AudioClip
from pydantic import TypeAdapter
from myna.audio.augment.chain import AnyTransform
for transform in TypeAdapter(list[AnyTransform]).validate_json(sys.stdin.read()):
    chain = Chain([transform])
    changed = chain.apply_audio(AudioClip(speech_like(3.0, 16_000), 16_000), chain.draw(rng_for(0, 0, "a")))
    print(transform.type, hashlib.sha256(changed.samples.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_every_process_makes_the_same_bits(noise_folder, room_folder):
    kinds = [kind for kind in TRANSFORMS if issubclass(kind, AudioTransform)]
    transforms = [with_defaults(kind, noise_folder, room_folder).model_dump(mode="json") for kind in kinds]
    here = Path(__file__).parent
    code = DIGESTS.format(paths=[str(here), str(here.parents[1]), str(here.parents[2])])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(transforms),
            env=os.environ | {"OMP_NUM_THREADS": threads, "PRA_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(set(outputs.pop().splitlines())) == len(kinds)
