"""Published model sizes by name: what their configuration files say, so that nothing needs to be fetched.

Values are those of the hub's `config.json` files where they decide parameters, memory or speed; a test compares the
parameter counts with the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Class names of transformers and the arguments of the configuration."""

    model_class: str
    config_class: str
    config: dict[str, Any] = field(default_factory=dict)


# wav2vec 2.0 with layer normalisation in the front end (Conneau et al. 2020, Babu et al. 2021), as it is fine-tuned.
_LAYER_NORM = {
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
    "mask_time_prob": 0.075,
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}


def _wav2vec2(**config: Any) -> KnownModel:
    return KnownModel("Wav2Vec2ForCTC", "Wav2Vec2Config", config)


def _hubert(**config: Any) -> KnownModel:
    return KnownModel("HubertForCTC", "HubertConfig", config)


def _wavlm(**config: Any) -> KnownModel:
    return KnownModel("WavLMForCTC", "WavLMConfig", config)


def _whisper(
    width: int, layers: int, heads: int, decoder_layers: int = 0, mel_bins: int = 80, vocabulary: int = 51_865
) -> KnownModel:
    config = {
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": decoder_layers or layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "num_mel_bins": mel_bins,
        "vocab_size": vocabulary,
    }
    return KnownModel("WhisperForConditionalGeneration", "WhisperConfig", config)


def _parakeet(layers: int) -> KnownModel:
    encoder = {"num_hidden_layers": layers, "num_mel_bins": 80}
    return KnownModel("ParakeetForCTC", "ParakeetCTCConfig", {"encoder_config": encoder})


_ENGLISH = 51_864  # tokens of the English-only checkpoints, one fewer

KNOWN_MODELS: dict[str, KnownModel] = {
    "wav2vec2-base": _wav2vec2(),
    "wav2vec2-large": _wav2vec2(**_LARGE),
    "wav2vec2-large-lv60": _wav2vec2(**_LARGE, **_LAYER_NORM),
    "wav2vec2-large-xlsr-53": _wav2vec2(**_LARGE, **_LAYER_NORM),
    "wav2vec2-xls-r-300m": _wav2vec2(**_LARGE, **_LAYER_NORM),
    "wav2vec2-xls-r-1b": _wav2vec2(**_XLARGE, **_LAYER_NORM),
    "wav2vec2-xls-r-2b": _wav2vec2(**{**_XLARGE, "hidden_size": 1920, "intermediate_size": 7680}, **_LAYER_NORM),
    "hubert-base-ls960": _hubert(),
    "hubert-large-ll60k": _hubert(**_LARGE, **_LAYER_NORM),
    "hubert-xlarge-ll60k": _hubert(**_XLARGE, **_LAYER_NORM),
    "wavlm-base": _wavlm(),
    "wavlm-large": _wavlm(**_LARGE, **{**_LAYER_NORM, "conv_bias": False}),
    "w2v-bert-2.0": KnownModel("Wav2Vec2BertForCTC", "Wav2Vec2BertConfig", {"vocab_size": 32}),
    "whisper-tiny": _whisper(384, 4, 6),
    "whisper-base": _whisper(512, 6, 8),
    "whisper-small": _whisper(768, 12, 12),
    "whisper-medium": _whisper(1024, 24, 16),
    "whisper-large": _whisper(1280, 32, 20),
    "whisper-large-v2": _whisper(1280, 32, 20),
    "whisper-large-v3": _whisper(1280, 32, 20, mel_bins=128, vocabulary=51_866),
    "whisper-large-v3-turbo": _whisper(1280, 32, 20, decoder_layers=4, mel_bins=128, vocabulary=51_866),
    "whisper-tiny.en": _whisper(384, 4, 6, vocabulary=_ENGLISH),
    "whisper-base.en": _whisper(512, 6, 8, vocabulary=_ENGLISH),
    "whisper-small.en": _whisper(768, 12, 12, vocabulary=_ENGLISH),
    "whisper-medium.en": _whisper(1024, 24, 16, vocabulary=_ENGLISH),
    "distil-large-v3": _whisper(1280, 32, 20, decoder_layers=2, mel_bins=128, vocabulary=51_866),
    "parakeet-ctc-0.6b": _parakeet(24),
    "parakeet-ctc-1.1b": _parakeet(42),
}

ALIASES = {
    "xls-r-300m": "wav2vec2-xls-r-300m",
    "xls-r-1b": "wav2vec2-xls-r-1b",
    "xls-r-2b": "wav2vec2-xls-r-2b",
    "xlsr-53": "wav2vec2-large-xlsr-53",
    "hubert-base": "hubert-base-ls960",
    "hubert-large": "hubert-large-ll60k",
    "hubert-xlarge": "hubert-xlarge-ll60k",
    "whisper-turbo": "whisper-large-v3-turbo",
    "whisper-large-turbo": "whisper-large-v3-turbo",
}
