"""Small models of several families, as planning requests name them."""

from __future__ import annotations

from typing import Any

from myna.plan.request import ModelSpec

WAV2VEC2: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 32,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "layerdrop": 0.1,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
WHISPER: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 500,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 2,
}
PARAKEET_ENCODER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "subsampling_conv_channels": 16,
}
MOONSHINE: dict[str, Any] = {
    "vocab_size": 300,
    "pad_token_id": 0,
    "hidden_size": 64,
    "intermediate_size": 128,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
}


PRETRAINING: dict[str, Any] = {
    "mask_time_prob": 0.65,
    "mask_time_length": 5,
    "num_negatives": 20,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 32,
    "codevector_dim": 48,
    "proj_codevector_dim": 40,
    "contrastive_logits_temperature": 0.1,
    "diversity_loss_weight": 0.1,
}


def pretraining(family: str) -> ModelSpec:
    """A model in pre-training: conformer, transformer or wav2vec2."""
    if family == "wav2vec2":
        config = "transformers.models.wav2vec2.configuration_wav2vec2:Wav2Vec2Config"
        values = WAV2VEC2 | PRETRAINING
    else:
        config = f"myna.models.{family}:{family.capitalize()}Config"
        values = {"d_model": 64, "num_encoder_layers": 2, "d_ff": 128} | PRETRAINING
    kind = "Wav2Vec2" if family == "wav2vec2" else family.capitalize()
    return ModelSpec(f"myna.models.pretraining:{kind}ForPreTraining", config, values)


def hub_spec(folder: str, model: str, config: str, values: dict[str, Any], **rest: Any) -> ModelSpec:
    """A model of transformers."""
    module = f"transformers.models.{folder}"
    return ModelSpec(f"{module}.modeling_{folder}:{model}", f"{module}.configuration_{folder}:{config}", values, **rest)


def wav2vec2(frozen: tuple[str, ...] = ("wav2vec2.feature_extractor",), **rest: Any) -> ModelSpec:
    values = WAV2VEC2 | rest.pop("config", {})
    return hub_spec("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", values, frozen=frozen, **rest)


def own(family: str) -> ModelSpec:
    """One of Myna's."""
    values = {"d_model": 64, "num_encoder_layers": 2, "d_ff": 128}
    name = family.capitalize()
    return ModelSpec(f"myna.models.{family}:{name}ForCTC", f"myna.models.{family}:{name}Config", values)


SPECS = {
    "wav2vec2": wav2vec2(),
    "hubert": hub_spec("hubert", "HubertForCTC", "HubertConfig", WAV2VEC2),
    "whisper": hub_spec("whisper", "WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
    "parakeet": hub_spec(
        "parakeet",
        "ParakeetForCTC",
        "ParakeetCTCConfig",
        {"vocab_size": 101, "pad_token_id": 100, "encoder_config": PARAKEET_ENCODER},
    ),
    "moonshine": hub_spec("moonshine", "MoonshineForConditionalGeneration", "MoonshineConfig", MOONSHINE),
    "transformer": own("transformer"),
    "conformer": own("conformer"),
}
