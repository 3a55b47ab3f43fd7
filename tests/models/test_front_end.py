from __future__ import annotations

import copy
import warnings
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCTC,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SEWConfig,
    UniSpeechConfig,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from myna.errors import ModelError
from myna.models.front_end import freeze_front_end, front_end_of, run_front_end_by_clip

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
CONFIGS = [
    Wav2Vec2Config(**SIZES, feat_extract_norm="group"),
    Wav2Vec2Config(**SIZES, feat_extract_norm="layer", do_stable_layer_norm=True),
    HubertConfig(**SIZES),
    WavLMConfig(**SIZES),
    UniSpeechConfig(**SIZES),
    Data2VecAudioConfig(**{**SIZES, "num_conv_pos_embeddings": 2}),
    SEWConfig(**SIZES, squeeze_factor=2),
]
KINDS = ["wav2vec2-group", "wav2vec2-layer", "hubert", "wavlm", "unispeech", "data2vec-audio", "sew"]


def build(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCTC.from_config(copy.deepcopy(config))
    freeze_front_end(model)
    return model


def by_clip(model: PreTrainedModel) -> PreTrainedModel:
    changed = copy.deepcopy(model)
    run_front_end_by_clip(changed)
    return changed


def clips(count: int = 3, samples: int = 4_000) -> torch.Tensor:
    """Clips of several lengths, padded with zeros."""
    values = torch.randn(count, samples, generator=torch.Generator().manual_seed(1))
    for row in range(count):
        values[row, samples - 500 * row :] = 0
    return values


@pytest.mark.parametrize("config", CONFIGS, ids=KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_the_numbers_are_those_of_the_batch(config: PreTrainedConfig, training: bool) -> None:
    model = build(config).train(training)
    expected = front_end_of(model)(clips())
    found = front_end_of(by_clip(model))(clips())
    torch.testing.assert_close(found, expected)  # to the last bits: kernels add up in another order
    assert not found.requires_grad
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_batch(checkpointing: bool, autocast: bool) -> None:
    gradients = []
    for model in (build(CONFIGS[1]), by_clip(build(CONFIGS[1]))):
        model.train()
        if checkpointing:
            with warnings.catch_warnings():  # the only name in transformers 5.17 is deprecated in 5.23
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)  # dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(clips()).logits
        logits.float().square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert {name for name, gradient in gradients[1].items() if gradient is None} <= {"wav2vec2.masked_spec_embed"}
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3 if autocast else 1e-6, rtol=0)


def test_weights_keep_their_names(tmp_path: Path) -> None:
    model = by_clip(build(CONFIGS[0])).eval()
    assert model.state_dict().keys() == build(CONFIGS[0]).state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(clips()).logits, model(clips()).logits, atol=1e-5, rtol=0)


def test_a_copy_hears_with_its_own_weights() -> None:
    model = by_clip(build(CONFIGS[0]))
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in front_end_of(changed).parameters():
            parameter.zero_()
    assert front_end_of(changed)(clips()).abs().max() == 0
    assert front_end_of(model)(clips()).abs().max() > 0


@pytest.mark.parametrize("config", CONFIGS[:2], ids=["group", "layer"])
def test_it_traces_without_data(config: PreTrainedConfig) -> None:
    with FakeTensorMode():
        model = build(config).train()
        run_front_end_by_clip(model)
        logits = model(torch.randn(3, 4_000)).logits
        logits.sum().backward()
        assert model.lm_head.weight.grad.shape == (8, 32)
    with torch.device("meta"):
        model = by_clip(build(config))
        assert model(torch.empty(3, 4_000)).logits.shape == logits.shape


def peak_bytes(model: PreTrainedModel, batch: torch.Tensor) -> int:
    """What the front end allocates at most at once, its output included, from the profiler's memory events."""
    front_end = front_end_of(model)
    front_end(batch[:1, :400])  # what the kernels keep for later
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        output = front_end(batch)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    living = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    assert output.nbytes > 0
    return max(living)


@pytest.mark.parametrize("config", CONFIGS[:2], ids=["group", "layer"])
def test_only_one_clips_activations_exist(config: PreTrainedConfig) -> None:
    model = build(config).train()
    one, batched = (peak_bytes(model, clips(count, 16_000)) for count in (1, 8))
    found = peak_bytes(by_clip(model), clips(8, 16_000))
    output = front_end_of(model)(clips(8, 16_000)).nbytes
    assert batched > 6 * one
    assert one < found < 1.1 * (one + output)


def test_a_trained_front_end_is_refused() -> None:
    model = build(CONFIGS[0])
    next(front_end_of(model).parameters()).requires_grad_(True)
    with pytest.raises(ModelError, match=r"expected a frozen front end.*model\.freeze_front_end=true"):
        run_front_end_by_clip(model)


def test_frozen_from_outside_is_frozen() -> None:
    model = build(CONFIGS[0]).train()
    front_end_of(model)._requires_grad = True
    run_front_end_by_clip(model)
    assert not front_end_of(model)(clips()).requires_grad


def test_models_without_such_a_front_end_are_refused() -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64, "pad_token_id": 0}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    with pytest.raises(ModelError, match="received a WhisperForConditionalGeneration"):
        front_end_of(WhisperForConditionalGeneration(WhisperConfig(**sizes)))
    assert isinstance(front_end_of(nn.ModuleDict({"module": build(CONFIGS[0])})), nn.Module)  # wrapped
