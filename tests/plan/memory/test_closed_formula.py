from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import HubertConfig, ParakeetCTCConfig, Wav2Vec2Config, WhisperConfig

from myna.errors import ModelError
from myna.models.conformer import ConformerConfig
from myna.models.transformer import TransformerConfig
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.memory.step import trace
from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec, StepSettings

WIDTH = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
FRONT = {"conv_dim": (64,) * 7, "num_conv_pos_embeddings": 32, "vocab_size": 40, "pad_token_id": 0}
WHISPER = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in
           {"layers": 2, "attention_heads": 4, "ffn_dim": 512}.items()}  # fmt: skip
PARAKEET = {**WIDTH, "num_key_value_heads": 4, "subsampling_conv_channels": 32}
# On a CPU the bound counts attention maps, which a fused kernel spares models without attention dropout.
CONFIGS = {
    "myna.models.transformer:TransformerForCTC": TransformerConfig(d_model=128, num_encoder_layers=3, d_ff=512),
    "myna.models.conformer:ConformerForCTC": ConformerConfig(d_model=128, num_encoder_layers=3, d_ff=512),
    "transformers:Wav2Vec2ForCTC": Wav2Vec2Config(**WIDTH, **FRONT, feat_extract_norm="layer"),
    "transformers:HubertForCTC": HubertConfig(**WIDTH, **FRONT),
    "transformers:WhisperForConditionalGeneration": WhisperConfig(
        d_model=128, **WHISPER, vocab_size=51865, attention_dropout=0.1
    ),
    "transformers:ParakeetForCTC": ParakeetCTCConfig(vocab_size=65, pad_token_id=64, encoder_config=PARAKEET),
}
CPU = StepSettings(device="cpu")
STEPS = {
    "plain": CPU,
    "saving": replace(CPU, precision="bf16", gradient_checkpointing=True, accumulates=True, optimizer="adafactor"),
}


def spec(model_class: str, **options) -> ModelSpec:
    config = CONFIGS[model_class]
    home = type(config).__module__ if model_class.startswith("myna") else "transformers"
    return ModelSpec(model_class, f"{home}:{type(config).__name__}", config.to_dict(), **options)


@pytest.mark.slow
@pytest.mark.parametrize("model_class", CONFIGS)
@pytest.mark.parametrize("step", STEPS)
def test_the_bound_is_above_the_trace_but_not_far(model_class: str, step: str):
    request = MemoryRequest(spec(model_class), STEPS[step], labels_per_second=4.0)
    bound = closed_formula(request)
    assert not bound.exact
    ledger = trace(request, 3, 9.0)
    assert ledger.peak(512) <= bound.peak(3, 9.0).bytes <= 5 * ledger.peak(512)
    assert 0.7 * ledger.flops <= bound.flops(3, 9.0) <= 3 * ledger.flops
    assert ledger.parameters <= bound.parameters <= 1.15 * ledger.parameters
    assert ledger.trainable <= bound.trainable


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers renames
@pytest.mark.parametrize("activity", ["train", "evaluate"])
def test_the_bound_holds_for_adapters_and_for_decoding(activity):
    whisper = spec("transformers:WhisperForConditionalGeneration", lora=LoraSpec(8))
    request = MemoryRequest(whisper, CPU, labels_per_second=4.0, activity=activity)
    ledger = trace(request, 3, 13.0)
    assert ledger.peak(512) <= closed_formula(request).peak(3, 13.0).bytes
    assert ledger.trainable <= closed_formula(request).trainable


def test_each_setting_costs_what_it_should():
    plain = MemoryRequest(spec("transformers:Wav2Vec2ForCTC"), StepSettings())

    def peak(**settings) -> int:
        return closed_formula(replace(plain, settings=replace(plain.settings, **settings))).peak(4, 20.0).bytes

    assert peak(gradient_checkpointing=True) < peak()
    assert peak(attention="eager") > peak(attention="efficient")
    assert peak(optimizer="adafactor") < peak(optimizer="adamw_8bit") < peak(optimizer="adamw_torch_fused")
    assert closed_formula(replace(plain, teacher=plain.model)).peak(4, 20.0).bytes > peak()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_class", ["myna.models.conformer:ConformerForCTC", "transformers:WhisperForConditionalGeneration"]
)
@pytest.mark.parametrize("step", STEPS)
def test_the_bound_holds_with_a_teacher(model_class: str, step: str):
    request = MemoryRequest(spec(model_class), STEPS[step], teacher=spec(model_class), labels_per_second=4.0)
    bound, ledger = closed_formula(request), trace(request, 3, 9.0)
    assert ledger.peak(512) <= bound.peak(3, 9.0).bytes <= 5 * ledger.peak(512)
    assert 0.7 * ledger.flops <= bound.flops(3, 9.0) <= 3 * ledger.flops


def test_an_unknown_family_is_refused():
    with pytest.raises(ModelError, match="bert"):
        closed_formula(MemoryRequest(ModelSpec("m:M", "m:C", {"model_type": "bert", "hidden_size": 3})))


def test_a_broken_configuration_is_refused():
    with pytest.raises(ModelError, match="hidden_size"):
        closed_formula(MemoryRequest(ModelSpec("m:M", "m:C", {"conv_dim": [1]})))
