from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
import torch
import yaml
from pydantic import TypeAdapter

from myna.audio.augment.background import Background
from myna.audio.augment.chain import AnyTransform, Chain, rng_for
from myna.audio.augment.edges import Edges
from myna.audio.augment.impulse_response import ImpulseResponse
from myna.audio.augment.noise import Noise
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.audio.augment.stretch import Stretch
from myna.audio.augment.volume import Volume
from myna.audio.augment.warp import Warp
from myna.errors import ConfigError
from myna.samples import AudioClip

ALL = [Speed(), Volume(), Noise(), SpecAugment()]


def test_draws_belong_to_seed_epoch_and_utterance():
    chain = Chain(ALL)
    draws = chain.draw(rng_for(0, 1, "abc"))
    assert chain.draw(rng_for(0, 1, "abc")) == draws
    others = [chain.draw(rng_for(*key)) for key in [(1, 1, "abc"), (0, 2, "abc"), (0, 1, "abd"), (0, 11, "bc")]]
    assert all(other != draws for other in others)
    assert rng_for(0, 1, "1/2").random() != rng_for(0, 11, "/2").random()


def test_the_generator_is_the_same_on_every_machine():
    assert rng_for(0, 0, "0123456789abcdef").integers(2**32) == 299_359_568


def test_whether_one_transform_fires_does_not_move_the_others():
    always, never = Chain([Speed(), Noise()]), Chain([Speed(probability=0), Noise()])
    for number in range(20):
        first, second = always.draw(rng_for(0, 0, str(number))), never.draw(rng_for(0, 0, str(number)))
        assert second[0] is None
        assert first[0] is not None
        assert first[1] == second[1]


def test_probability_is_the_share_of_clips():
    chain = Chain([Volume(probability=0.3)])
    fired = sum(chain.draw(rng_for(0, 0, str(number)))[0] is not None for number in range(2_000))
    assert 0.26 < fired / 2_000 < 0.34


def test_samples_and_features_are_changed_in_order():
    chain = Chain([SpecAugment(), Volume(min_gain_db=20, max_gain_db=20), Speed(min_factor=2, max_factor=2)])
    draws = chain.draw(rng_for(0, 0, "a"))
    clip = chain.apply_audio(AudioClip(np.full(100, 0.01, np.float32), 16_000), draws)
    assert len(clip.samples) == 50
    assert abs(clip.samples[25] - 0.1) < 1e-3
    features = torch.ones(200, 80)
    assert torch.equal(chain.apply_features(features, draws), SpecAugment().apply(features, draws[0]))


def test_nothing_fires_nothing_changes():
    chain = Chain([Speed(probability=0), SpecAugment(probability=0)])
    draws = chain.draw(rng_for(0, 0, "a"))
    clip, features = AudioClip(np.ones(10, np.float32), 16_000), torch.ones(2, 3)
    assert chain.apply_audio(clip, draws) is clip
    assert chain.apply_features(features, draws) is features


def test_a_chain_travels_to_other_processes():
    chain = pickle.loads(pickle.dumps(Chain(ALL)))
    assert chain == Chain(ALL)
    assert chain.draw(rng_for(0, 0, "a")) == Chain(ALL).draw(rng_for(0, 0, "a"))


def test_the_configuration_names_transforms_by_type():
    parsed = TypeAdapter(list[AnyTransform]).validate_python([{"type": "speed", "probability": 0.5}, {"type": "noise"}])
    assert parsed == [Speed(probability=0.5), Noise()]


def test_all_mistakes_are_found_when_a_run_begins(tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = [Background(folder=str(tmp_path / "nowhere")), ImpulseResponse(folder=str(tmp_path / "empty"))]
    with pytest.raises(ConfigError) as caught:
        Chain([Speed(), *wrong]).check()
    assert len(caught.value.mistakes) == 2
    assert caught.value.mistakes[0].startswith("augment[1] (background).folder: expected a folder of recordings")
    assert caught.value.mistakes[1].startswith("augment[2] (impulse_response).folder: expected recordings")
    never = wrong[0].model_copy(update={"probability": 0.0})
    assert Chain([never]).check() == []


def test_the_fingerprint_changes_with_settings_and_contents_and_not_with_the_place(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", np.ones(100) / 2, 16_000)
    here, there = (Chain([Background(folder=str(tmp_path / name)), Speed()]) for name in ("here", "there"))
    here.check()
    original = here.fingerprint()
    assert there.fingerprint() == original
    assert pickle.loads(pickle.dumps(here)).fingerprint() == original
    others = [
        Chain([Background(folder=str(tmp_path / "here")), Speed(max_factor=1.2)]),
        Chain([Speed(), Background(folder=str(tmp_path / "here"))]),
        Chain([Background(folder=str(tmp_path / "here"), probability=0.5), Speed()]),
        Chain([Speed()]),
    ]
    prints = [other.fingerprint() for other in others]
    soundfile.write(tmp_path / "here" / "b.wav", np.ones(100) / 2, 16_000)
    assert here.fingerprint() == original  # listed once
    here.check()
    prints.append(here.fingerprint())
    assert len({original, *prints}) == 6


def test_how_long_a_clip_can_become():
    chain = Chain([Warp(max_time_factor=1.5), Stretch(min_factor=0.8), Edges(max_silence_seconds=1), Volume()])
    assert chain.longest_seconds(4) == pytest.approx((4 / 0.8 + 2) * 1.5)  # transforms of samples come first
    assert Chain([Speed(min_factor=1.5, max_factor=2), Stretch(min_factor=0.5, probability=0)]).longest_seconds(4) == 4
    assert Chain([]).longest_seconds(4) == 4


def test_examples_in_the_docs_are_valid():
    for page in ("audio.md", "augment.md"):
        text = (Path(__file__).parents[3] / "docs" / page).read_text()
        examples = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml")[1:]]
        assert examples
        for example in examples:
            parsed = TypeAdapter(list[AnyTransform]).validate_python(example["augment"])
            assert len(parsed) == len(example["augment"])


def test_the_docs_name_every_transform_and_key():
    page = (Path(__file__).parents[3] / "docs" / "audio.md").read_text()
    for kind in get_args(get_args(AnyTransform)[0]):
        for name in kind.model_fields.keys() - {"type", "probability"}:
            assert f"`{name}`" in page, f"{kind.__name__}.{name}"
        assert f"`{kind.model_fields['type'].default}`" in page
