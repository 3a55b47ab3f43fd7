from __future__ import annotations

import json
import logging

import pytest
from plan_cases import Asked, card, dataset

from myna.errors import ModelError, PlanError
from myna.plan.manager import ASRConfigManager, create_optimal_config
from myna.plan.optimal_config import KEYS, OptimalConfig
from myna.plan.profiles.hardware import HardwareProfile


def tiny_wav2vec2():
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front_end = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**sizes, **front_end, vocab_size=32))
    model.freeze_feature_encoder()
    return model


def clips(count: int = 40):
    import datasets

    durations = [1.0 + index % 5 for index in range(count)]
    return datasets.Dataset.from_dict({"duration": durations, "text": ["a word or two"] * count})


def test_the_manager_plans_step_by_step(tmp_path):
    manager = ASRConfigManager(safety_margin=0.85, hardware=card(4), ask=Asked())
    with pytest.raises(PlanError, match="profile of the dataset"):
        manager.generate_config()
    assert manager.profile_dataset(clips()).utterances == 40
    profile = manager.profile_model(tiny_wav2vec2(), "tiny")
    assert (profile.family, profile.name) == ("wav2vec2", "tiny")
    config = manager.generate_config(num_epochs=3, target_batch_size=16)
    assert config.effective_batch_size == 16
    assert config.num_train_epochs == 3
    assert config.max_audio_duration_seconds == 5
    path = manager.save_config(config, tmp_path / "config.json")
    assert set(json.loads(path.read_text())) == set(KEYS)
    assert OptimalConfig.load(path) == config


def test_a_front_end_runs_by_clip_only_when_asked_for():
    manager = ASRConfigManager(hardware=card(4.5), ask=Asked())
    manager.profile_dataset(dataset())
    manager.profile_model(tiny_wav2vec2())
    assert manager.generate_config().per_device_train_batch_size == 2
    assert manager.generate_config(front_end_by_clip=True).per_device_train_batch_size == 4
    assert manager.plan is not None and manager.plan.settings.front_end_by_clip


def test_overrides_of_the_manager_are_checked():
    manager = ASRConfigManager(hardware=card(4.5), ask=Asked())
    manager.profile_dataset(dataset())
    manager.profile_model(tiny_wav2vec2())
    with pytest.raises(PlanError, match="per_device_train_batch_size: expected at most 3"):
        manager.generate_config(per_device_train_batch_size=16)


def test_an_unknown_name_is_refused():
    with pytest.raises(ModelError, match="wav2vec2-xls-r-9b"):
        create_optimal_config(dataset(), None, "wav2vec2-xls-r-9b")


@pytest.mark.slow
def test_a_dataset_and_a_model_on_this_machine(caplog):
    with caplog.at_level(logging.WARNING):
        config, manager = create_optimal_config(clips(), tiny_wav2vec2(), "tiny", num_epochs=2, target_batch_size=8)
    assert manager.hardware.device == HardwareProfile.detect().device
    assert config.effective_batch_size == 8
    assert manager.plan is not None
    assert manager.plan.memory.traced, caplog.text
    assert manager.plan.memory.reserved_bytes <= manager.hardware.memory_limit_bytes
    assert manager.plan.model.parameters < 1_000_000
    assert "Training plan" in str(config)
