"""Figures of models against published parameter counts, and specs from which the same model can be rebuilt."""

from __future__ import annotations

import importlib
import json
import math
import struct

import pytest
import torch
from method_cases import TEXTS, method_config, write_base
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, WhisperConfig, WhisperForConditionalGeneration

from myna.config import load_config
from myna.errors import ModelError
from myna.models.build import build_recognizer
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.plan.memory.subjects import build_model, count_parameters
from myna.plan.profiles.known_models import ALIASES, KNOWN_MODELS
from myna.plan.profiles.model import ModelProfile
from myna.plan.request import LoraSpec, MemoryRequest, StepSettings

FRONT_END = "wav2vec2.feature_extractor"
of_peft = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft still asks for it
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
}


def tiny_wav2vec2() -> Wav2Vec2ForCTC:
    return Wav2Vec2ForCTC(Wav2Vec2Config(**TINY))


def tiny_conformer() -> ConformerForCTC:
    return ConformerForCTC(ConformerConfig(d_model=16, num_encoder_layers=2, num_heads=2, d_ff=32, vocab_size=8))


def rebuilt(spec) -> nn.Module:
    """As another process does it."""

    def find(path):
        module, _, name = path.partition(":")
        return getattr(importlib.import_module(module), name)

    with torch.device("meta"):
        model = find(spec.model_class)(find(spec.config_class).from_dict(dict(spec.config)))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for part in spec.frozen:
        (modules.get(part) or parameters[part]).requires_grad_(False)
    return model


def count(model, trained_only=False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)


# As counted by transformers' num_parameters() on the published checkpoints; head of 32 tokens for CTC models.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("whisper-tiny", 37_760_640),
        ("whisper-base", 72_593_920),
        ("openai/whisper-small", 241_734_912),
        ("whisper-medium", 763_857_920),
        ("whisper-large-v2", 1_543_304_960),
        ("whisper-large-v3", 1_543_490_560),
        ("whisper-turbo", 808_878_080),
        ("wav2vec2-base", 94_396_320),
        ("wav2vec2-large", 315_461_792),
        ("wav2vec2-xls-r-300m", 315_438_720 + 1024 * 32 + 32),
        ("hubert-large", 315_438_720 + 1024 * 32 + 32),
    ],
)
def test_published_counts(name, parameters):
    assert ModelProfile.from_folder(name, frozen=()).parameters == parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [("xls-r-1b", 0.96), ("xls-r-2b", 2.16), ("parakeet-ctc-0.6b", 0.61), ("parakeet-ctc-1.1b", 1.06)],
)
def test_rounded_counts(name, billions):
    assert ModelProfile.from_folder(name).parameters / 1e9 == pytest.approx(billions, abs=0.01)


def test_the_weights_on_disk_have_as_many(shared):
    """Header of safetensors: 8 bytes of length, then JSON. The tied output projection is stored once."""
    with (shared / "models" / "whisper-tiny" / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    stored = sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    profile = ModelProfile.from_folder(shared / "models" / "whisper-tiny")
    assert profile.parameters == stored == ModelProfile.from_folder("whisper-tiny").parameters
    assert profile.family == "whisper"


def test_every_known_model_can_be_built():
    for name in [*KNOWN_MODELS, *ALIASES]:
        profile = ModelProfile.from_folder(name)
        assert profile.hidden_size >= 384
        assert profile.layers >= 8


def test_figures_of_a_model():
    profile = ModelProfile.from_folder("wav2vec2-xls-r-1b")
    assert (profile.family, profile.hidden_size, profile.layers) == ("wav2vec2", 1280, 48)
    assert profile.spec.frozen == (FRONT_END,)
    front_end = sum(p.numel() for p in rebuilt(profile.spec).wav2vec2.feature_extractor.parameters())
    assert profile.trainable == profile.parameters - front_end
    assert profile.state_bytes == 4 * profile.parameters + 12 * profile.trainable


def test_encoder_and_decoder_count():
    assert ModelProfile.from_folder("whisper-turbo").layers == 36
    assert ModelProfile.from_folder("parakeet-ctc-1.1b").hidden_size == 1024


def test_everything_can_be_trained_on_request():
    profile = ModelProfile.from_folder("wav2vec2-base", frozen=())
    assert profile.trainable == profile.parameters
    assert profile.spec.frozen == ()


def test_parts_can_be_frozen():
    profile = ModelProfile.from_folder("whisper-tiny", frozen=["model.encoder"])
    assert profile.spec.frozen == ("model.encoder",)
    with pytest.raises(ModelError, match="nonsense"):
        ModelProfile.from_folder("whisper-tiny", frozen=["nonsense"])


def test_the_head_has_as_many_tokens_as_asked_for():
    small, large = (ModelProfile.from_folder("wav2vec2-base", vocab_size=size) for size in (32, 100))
    assert large.parameters - small.parameters == 68 * (768 + 1)


@pytest.mark.parametrize("make", [tiny_wav2vec2, tiny_conformer])
def test_a_loaded_model_and_its_rebuilt_twin(make):
    model = make()
    profile = ModelProfile.of(model)
    assert profile.parameters == profile.trainable == count(model)
    twin = rebuilt(profile.spec)
    assert [(n, p.shape) for n, p in twin.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    assert profile.rebuild_problem == ""


def test_a_model_on_meta():
    with torch.device("meta"):
        model = tiny_wav2vec2()
    assert ModelProfile.of(model).parameters == count(model)


def test_what_is_frozen_is_told_in_few_words():
    model = tiny_wav2vec2()
    model.freeze_feature_encoder()
    model.wav2vec2.encoder.layers[0].requires_grad_(False)
    model.lm_head.bias.requires_grad_(False)
    profile = ModelProfile.of(model)
    assert profile.spec.frozen == (FRONT_END, "wav2vec2.encoder.layers.0", "lm_head.bias")
    assert profile.trainable == count(model, trained_only=True)
    assert count(rebuilt(profile.spec), trained_only=True) == profile.trainable


def test_fixed_positions_of_whisper_are_not_trained():
    config = WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2)
    config.update({"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32})
    profile = ModelProfile.of(WhisperForConditionalGeneration(config))
    assert profile.spec.frozen == ("model.encoder.embed_positions",)
    assert profile.parameters - profile.trainable == 1500 * 16


def test_half_precision_weights_take_half():
    full, half = ModelProfile.of(tiny_wav2vec2()), ModelProfile.of(tiny_wav2vec2().half())
    assert half.parameter_bytes * 2 == full.parameter_bytes


def adapted(targets, model=None):
    import peft

    return peft.get_peft_model(model or tiny_wav2vec2(), peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=targets))


@of_peft
def test_adapters_of_peft():
    model = adapted(["q_proj", "v_proj"])
    profile = ModelProfile.of(model)
    assert profile.spec.lora == LoraSpec(4, ("q_proj", "v_proj"), 0.1)
    assert profile.spec.frozen == ()
    assert profile.parameters == count(model)
    assert profile.trainable == count(model, trained_only=True) == 2 * 2 * 4 * (32 + 32)
    assert profile.spec.model_class.endswith(":Wav2Vec2ForCTC")


@of_peft
def test_adapters_on_some_layers_only_are_named_in_full():
    """A pattern that leaves out the first layer: the last part of the names alone would bring it back."""
    profile = ModelProfile.of(adapted(r".*layers\.1\.attention\.q_proj"))
    assert profile.spec.lora.targets == ("wav2vec2.encoder.layers.1.attention.q_proj",)


@of_peft
def test_planned_adapters_are_as_large_as_real_ones(tmp_path):
    model = tiny_wav2vec2()
    model.save_pretrained(tmp_path)
    lora = LoraSpec(4, ("q_proj", "out_proj"))
    planned = ModelProfile.from_folder(tmp_path, lora=lora)
    real = ModelProfile.of(adapted(list(lora.targets), model))
    assert (planned.parameters, planned.trainable) == (real.parameters, real.trainable)
    assert planned.spec.lora == lora


def test_adapters_without_a_layer():
    with pytest.raises(ModelError, match="nothing_like_it"):
        ModelProfile.from_folder("whisper-tiny", lora=LoraSpec(4, ("nothing_like_it",)))


def test_quantized_layers_are_small():
    plain = ModelProfile.from_folder("whisper-small", lora=LoraSpec(8))
    packed = ModelProfile.from_folder("whisper-small", lora=LoraSpec(8), quantized=True)
    assert packed.spec.quantized
    assert packed.parameters == plain.parameters
    assert 0.1 < packed.parameter_bytes / plain.parameter_bytes < 0.4


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch.compile's own imports
def test_wrappers_are_looked_through():
    model = tiny_conformer()
    assert ModelProfile.of(torch.compile(model)).spec == ModelProfile.of(model).spec
    assert ModelProfile.of(nn.DataParallel(model)).spec == ModelProfile.of(model).spec


def test_a_class_that_no_other_process_can_import(caplog):
    class Mine(ConformerForCTC):
        pass

    model = Mine(ConformerConfig(d_model=16, num_encoder_layers=1, num_heads=2, d_ff=32, vocab_size=8))
    profile = ModelProfile.of(model)
    assert "another process" in profile.rebuild_problem
    assert "formula" in caplog.text
    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    assert "notebook" in ModelProfile.of(model).rebuild_problem


def test_what_is_no_model_of_transformers():
    with pytest.raises(ModelError, match="Linear"):
        ModelProfile.of(nn.Linear(2, 2))


@pytest.mark.parametrize(("name", "near"), [("whisper-smal", "whisper-small"), ("wav2vec2-xlsr-1b", "xls-r-1b")])
def test_unknown_names_get_a_suggestion(name, near):
    with pytest.raises(ModelError, match=near):
        ModelProfile.from_folder(name)


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelProfile.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="bert"):
        ModelProfile.from_folder(tmp_path)


def test_a_folder_of_our_own(tmp_path):
    model = tiny_conformer()
    model.save_pretrained(tmp_path)
    profile = ModelProfile.from_folder(tmp_path)
    assert (profile.family, profile.parameters) == ("conformer", count(model))


def test_a_configuration_of_myna():
    config = load_config(["conformer"], ["model.d_model=64", "model.num_encoder_layers=3", "model.num_heads=2"])
    profile = ModelProfile.from_config(config, vocab_size=40)
    assert (profile.family, profile.hidden_size, profile.layers) == ("conformer", 64, 3)
    assert profile.spec.config["vocab_size"] == 40


@pytest.mark.parametrize(
    ("overrides", "frozen"),
    [
        (["model.family=whisper", "model.pretrained=whisper-tiny", "model.freeze_encoder=true"], ("model.encoder",)),
        (["model.family=wav2vec2", "model.pretrained=wav2vec2-base"], (FRONT_END,)),
        (["model.family=wav2vec2", "model.pretrained=wav2vec2-base", "model.freeze_front_end=false"], ()),
    ],
)
def test_a_configuration_with_a_pretrained_model(overrides, frozen):
    assert ModelProfile.from_config(load_config([], overrides)).spec.frozen == frozen


@pytest.mark.parametrize("family", ["conformer", "transformer"])
def test_a_configuration_that_pre_trains_is_planned_as_its_run(family):
    overrides = ["training.objective=pretrain", "training.metric_for_best_model=loss", f"model.family={family}"]
    config = load_config([], [*overrides, "model.d_model=64", "model.num_encoder_layers=2"])
    planned, real = ModelProfile.from_config(config), ModelProfile.of(build_recognizer(config, []).model)
    assert planned.parameters == real.parameters
    assert planned.spec.model_class == real.spec.model_class
    assert {"num_negatives", "codevector_dim"} <= planned.spec.config.keys()


def test_frozen_layers_are_those_that_training_freezes(shared):
    folder = shared / "models" / "whisper-tiny"
    config = load_config([], ["model.family=whisper", f"model.pretrained={folder}", "model.freeze_layers=2"])
    trained = build_recognizer(config, [])
    assert ModelProfile.from_config(config).trainable == ModelProfile.of(trained.model).trainable


@of_peft
@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.parametrize("family", ["wav2vec2", "conformer"])
def test_adapters_of_a_configuration_are_those_of_its_run(tmp_path, family, kind):
    """As predicted before the model is loaded, and as it is in the run."""
    base = write_base(tmp_path / family, family, tmp_path)
    config = method_config(base, family, kind, "model.freeze_layers=1", "adapter.target_modules=all")
    planned = ModelProfile.from_config(config)
    real = ModelProfile.of(build_recognizer(config, TEXTS).model)
    if family == "conformer":  # the other's head loses the rows of tokens that no text has
        assert (planned.parameters, planned.trainable) == (real.parameters, real.trainable)
        assert planned.parameter_bytes == real.parameter_bytes
    assert set(planned.spec.lora.targets) == set(real.spec.lora.targets)
    assert planned.spec.lora.saved == real.spec.lora.saved
    assert planned.spec.quantized is real.spec.quantized is (kind == "qlora")
    assert planned.spec.frozen == real.spec.frozen
    with torch.device("meta"):
        assert count_parameters(build_model(real.spec, StepSettings(device="cpu"))) == (real.parameters, real.trainable)


def test_a_spec_survives_the_journey_to_another_process():
    spec = ModelProfile.from_folder("xls-r-300m", lora=LoraSpec(8)).spec
    request = MemoryRequest(spec)
    assert MemoryRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
