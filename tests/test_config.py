from __future__ import annotations

import pytest

from myna.config import load_config, preset_names
from myna.errors import ConfigError


def mistakes(layers=(), overrides=()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(layers, overrides)
    return caught.value.mistakes


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_alone_and_comes_back_equal(name, tmp_path):
    config = load_config([name])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config([str(path)]) == config


def test_layers_merge_left_to_right_and_overrides_win():
    config = load_config(["conformer", "weak"], ["training.learning_rate=3e-4", "model.d_model=512"])
    assert config.training.effective_batch_size == 16
    assert config.training.learning_rate == 3e-4
    assert config.model.d_model == 512
    assert config.model.num_encoder_layers == 12


def test_all_mistakes_are_told_at_once_with_the_nearest_key():
    found = mistakes(
        overrides=["training.lerning_rate=1", "trainning.seed=1", "model.d_model=many", "seed", "learning_rate=1"]
    )
    assert "training.lerning_rate: no such key; did you mean learning_rate?" in found
    assert "trainning: no such key; did you mean training?" in found
    assert "learning_rate: no such key; did you mean training.learning_rate?" in found
    assert any(line.startswith("seed: expected section.key=value") for line in found)
    assert any(line.startswith("model.d_model: expected a valid integer") and "'many'" in line for line in found)


def test_conflicts_are_found():
    found = mistakes(
        overrides=["model.d_model=250", "training.bf16=true", "training.fp16=true", "model.conv_kernel_size=30"]
    )
    assert len(found) == 3
    assert found[0] == "model.d_model: expected a multiple of 2 * model.num_heads=8; received 250"


def test_a_teacher_and_layers_to_keep_need_a_model_to_take_them_from():
    found = mistakes(overrides=["distillation.teacher=self", "model.keep_encoder_layers=2"])
    assert len(found) == 2 and all("set model.pretrained" in line for line in found)
    assert list(mistakes(overrides=["distillation.alpha=1"])) == [
        "distillation needs distillation.teacher; received none"
    ]
    found = mistakes(overrides=["model.pretrained=x", "model.keep_decoder_layers=2", "adapter.kind=lora"])
    assert len(found) == 2
    assert found[0].startswith("model.keep_decoder_layers: expected 0 for family conformer")
    assert "adapters are saved without their base" in found[1]


def test_feed_values_without_effect_or_against_one_another_are_conflicts():
    found = mistakes(overrides=["feed.producers=2", "feed.lease_seconds=300", "feed.expire_seconds=60"])
    assert list(found) == [
        "feed.producers needs feed.home=redis; received local",
        "feed.expire_seconds: expected at least feed.lease_seconds=300; received 60",
    ]


def test_what_does_not_go_with_spread_parameters_is_told():
    training = ["fsdp=true", "fp16=true", "torch_compile=true", "eval_on_start=true"]
    model = ["model.family=whisper", "model.pretrained=base", "model.audio_context=auto"]
    more = ["adapter.kind=lora", "distillation.teacher=other"]
    found = mistakes(overrides=[*(f"training.{setting}" for setting in training), *model, *more])
    assert [line.partition(":")[0] for line in found if line.startswith("training.fsdp")] == [
        "training.fsdp with adapter.kind=lora",
        "training.fsdp with training.fp16",
        "training.fsdp with distillation.teacher",
        "training.fsdp with model.audio_context=auto",
        "training.fsdp with training.torch_compile",
    ]
    found = mistakes(overrides=["training.fsdp=true", "training.objective=pretrain"])
    assert "training.fsdp with training.objective=pretrain: not supported together" in found


def test_a_missing_file_names_the_presets():
    (found,) = mistakes(layers=["conformr"])
    assert "did you mean conformer?" in found
    assert "digits" in found


def test_yaml_that_is_no_mapping_or_no_yaml_is_a_mistake(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    found = mistakes(layers=[str(tmp_path / "list.yaml"), str(tmp_path / "broken.yaml")])
    assert "received a list" in found[0]
    assert "expected YAML" in found[1]


def test_unknown_augmentation_and_its_parameters_are_mistakes():
    found = mistakes(overrides=["augment.x=1"])
    assert any("augment" in line for line in found)


def test_a_bare_no_is_a_word():
    assert load_config([], ["training.eval_strategy=no"]).training.eval_strategy == "no"


def test_text_stays_text(tmp_path):
    overrides = ["data.version=012345", "data.language=no", "training.output_dir=2024-99-99", "model.pretrained="]
    config = load_config([], [*overrides, "data.db='my file.db'", "model.freeze_encoder=no"])
    assert (config.data.version, config.data.language, config.data.db) == ("012345", "no", "my file.db")
    assert (config.training.output_dir, config.model.pretrained) == ("2024-99-99", "")
    (tmp_path / "norwegian.yaml").write_text("data: {language: no}\nmodel: {freeze_encoder: false}\n")
    assert load_config([str(tmp_path / "norwegian.yaml")]).data.language == "no"


def test_values_that_yaml_itself_refuses_and_infinities_are_mistakes(tmp_path):
    (tmp_path / "date.yaml").write_text("data: {version: 2024-99-99}\n")
    assert "expected YAML" in mistakes(layers=[str(tmp_path / "date.yaml")])[0]
    (found,) = mistakes(overrides=["training.num_train_epochs=.inf"])
    assert "finite" in found


def test_a_start_that_nothing_is_compared_with_is_a_conflict():
    (found,) = mistakes(overrides=["training.eval_on_start=true", "training.eval_strategy=no"])
    assert found.startswith("training.eval_on_start needs")


def test_the_last_fit_is_not_scored_on_what_it_learned():
    (found,) = mistakes(overrides=["training.include_validation=true"])
    assert found.startswith("training.include_validation needs training.eval_strategy=no")


def test_milestones_come_back_equal_and_say_one_rate_each(tmp_path):
    config = load_config([], ["ttq.milestones=[{wer: 20, budget_hours: 2}, {cer: 5}]", "training.stop_at=hopeless"])
    assert [str(milestone) for milestone in config.ttq.milestones] == ["WER 20 % within 2 h", "CER 5 %"]
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config([str(tmp_path / "config.yaml")]) == config
    found = mistakes(overrides=["ttq.milestones=[{wer: 20, cer: 5}, {budget_hours: 1}]", "training.eval_strategy=no"])
    assert found[0] == "ttq.milestones.0: expected wer or cer, in percent; received both"
    assert found[1] == "ttq.milestones.1: expected wer or cer, in percent; received neither"
    assert found[2].startswith("ttq.milestones are measured in validation")
    assert mistakes(overrides=["training.stop_at=milestone"]) == (
        "training.stop_at=milestone needs ttq.milestones; received none",
    )


def test_unknown_keys_in_a_list_are_mistakes():
    assert mistakes(overrides=["ttq.milestones=[{wer: 20, hours: 2}]"]) == (
        "ttq.milestones.0.hours: expected a known key; received 2",
    )
