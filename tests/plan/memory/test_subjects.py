from __future__ import annotations

import pytest
import torch
from plan_specs import SPECS, WHISPER, hub_spec, wav2vec2

from myna.errors import ModelError
from myna.plan.memory.stand_ins import Adam8bit, NF4Linear
from myna.plan.memory.subjects import build_model, count_parameters, make_batch, make_optimizer
from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec, StepSettings


def built(spec: ModelSpec, **settings: object) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(spec, StepSettings(**settings))  # type: ignore[arg-type]


def batch_shapes(spec: ModelSpec, **settings: object) -> dict[str, tuple[int, ...]]:
    request = MemoryRequest(spec, StepSettings(**settings), labels_per_second=10.0)  # type: ignore[arg-type]
    batch = make_batch(built(spec), request, clips=3, seconds=2.0)
    return {name: tuple(tensor.shape) for name, tensor in batch.items()}


def test_layer_drop_is_off_in_the_model_and_in_what_is_inside_it() -> None:
    assert built(SPECS["wav2vec2"]).config.layerdrop == 0
    assert built(SPECS["parakeet"]).config.encoder_config.layerdrop == 0
    model = built(
        hub_spec("whisper", "WhisperForConditionalGeneration", "WhisperConfig", WHISPER | {"encoder_layerdrop": 0.2})
    )
    assert model.config.encoder_layerdrop == 0


def test_frozen_names_are_modules_or_parameters() -> None:
    model = built(wav2vec2(frozen=("wav2vec2.feature_extractor", "lm_head.bias")))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "lm_head.bias" in frozen
    assert all(name.startswith("wav2vec2.feature_extractor.") for name in frozen - {"lm_head.bias"})
    assert model.wav2vec2.feature_extractor._requires_grad is False
    with pytest.raises(ModelError, match=r"no\.such\.part"):
        built(wav2vec2(frozen=("no.such.part",)))


def test_adapters_are_all_that_is_trained() -> None:
    model = built(wav2vec2(lora=LoraSpec(rank=4, targets=("q_proj",))))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 3 * 2  # A and B of each layer
    assert all("lora_" in name for name in trained)
    assert count_parameters(model)[1] == 3 * 2 * 4 * 64


def test_quantized_weights_take_half_a_byte_but_for_the_heads() -> None:
    plain, model = built(wav2vec2()), built(wav2vec2(quantized=True))
    projection = model.wav2vec2.encoder.layers[0].attention.q_proj
    assert isinstance(projection, NF4Linear)
    assert projection.weight.numel() == 64 * 64 // 2
    assert projection.weight.dtype == torch.uint8
    assert type(model.lm_head) is torch.nn.Linear
    assert type(model.wav2vec2.feature_projection.projection) is torch.nn.Linear
    assert count_parameters(model)[0] == count_parameters(plain)[0]


def test_batches_have_the_inputs_of_their_family() -> None:
    labels = {"labels": (3, 20)}
    assert batch_shapes(SPECS["wav2vec2"]) == {"input_values": (3, 32_000), "attention_mask": (3, 32_000), **labels}
    assert batch_shapes(SPECS["wav2vec2"], attention="flash") == {"input_values": (3, 32_000), **labels}
    assert batch_shapes(SPECS["whisper"]) == {"input_features": (3, 200, 80), **labels}
    assert batch_shapes(SPECS["parakeet"]) == {"input_features": (3, 201, 80), "attention_mask": (3, 201), **labels}
    assert "attention_mask" in batch_shapes(SPECS["parakeet"], attention="flash")
    assert batch_shapes(SPECS["conformer"]) == {
        "features": (3, 201, 80),
        "feature_lengths": (3,),
        "label_lengths": (3,),
        **labels,
    }


def test_a_group_normalised_front_end_takes_no_mask() -> None:
    assert "attention_mask" not in batch_shapes(wav2vec2(config={"feat_extract_norm": "group", "conv_bias": False}))


def test_stacked_features_are_fewer_and_wider() -> None:
    spec = hub_spec(
        "wav2vec2_bert",
        "Wav2Vec2BertForCTC",
        "Wav2Vec2BertConfig",
        {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 9},
    )
    assert batch_shapes(spec)["input_features"] == (3, 100, 160)


def test_optimizers_are_those_of_the_trainer() -> None:
    model = built(SPECS["transformer"])
    assert make_optimizer(model, StepSettings()).defaults["fused"] is True
    assert make_optimizer(model, StepSettings(optimizer="adamw_torch")).defaults["foreach"] is True
    assert make_optimizer(model, StepSettings(device="cpu", optimizer="adamw_torch")).defaults["foreach"] is False
    adafactor = make_optimizer(model, StepSettings(optimizer="adafactor"))
    assert type(adafactor).__module__ == "transformers.optimization"
    matrices, vectors = make_optimizer(model, StepSettings()).param_groups
    assert {parameter.dim() for parameter in vectors["params"]} == {1}
    assert matrices["weight_decay"] > 0 == vectors["weight_decay"]


def test_8_bit_moments_take_a_byte_and_a_scale_for_256_elements() -> None:
    embedding, linear = torch.nn.Embedding(100, 64), torch.nn.Linear(128, 64)
    optimizer = make_optimizer(torch.nn.Sequential(embedding, linear), StepSettings(optimizer="adamw_8bit"))
    assert isinstance(optimizer, Adam8bit)
    for parameter in (embedding.weight, linear.weight, linear.bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def state_bytes(parameter: torch.Tensor) -> int:
        return sum(value.numel() * value.element_size() for value in optimizer.state[parameter].values())

    assert state_bytes(linear.weight) == 2 * (8192 + 8192 // 256 * 4)
    assert state_bytes(embedding.weight) == 2 * 4 * 6400  # the Trainer keeps embeddings' moments in fp32
    assert state_bytes(linear.bias) == 2 * 4 * 64  # too small
