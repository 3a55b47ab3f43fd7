from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import TypeAdapter

from myna.audio.augment.chain import AnyTransform, Chain, rng_for
from myna.audio.augment.noise import Noise
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.audio.augment.volume import Volume
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


def test_the_example_in_the_docs_is_valid():
    page = (Path(__file__).parents[3] / "docs" / "audio.md").read_text()
    example = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    parsed = TypeAdapter(list[AnyTransform]).validate_python(example["augment"])
    assert [transform.type for transform in parsed] == ["speed", "volume", "noise", "spec_augment"]
