"""Values of a configuration that are fine alone and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from myna.config import Config


def conflicts(config: Config) -> list[str]:
    """Every contradiction as `keys: expected ...; received ...`."""
    model, training, data, feed = config.model, config.training, config.data, config.feed
    found = []
    if model.d_model % (2 * model.num_heads):  # rotary positions turn pairs of channels in each head
        found.append(
            f"model.d_model: expected a multiple of 2 * model.num_heads={2 * model.num_heads}; received {model.d_model}"
        )
    if model.conv_kernel_size % 2 == 0:
        found.append(f"model.conv_kernel_size: expected an odd number; received {model.conv_kernel_size}")
    if model.family in ("whisper", "wav2vec2") and not model.pretrained:
        found.append("model.pretrained: expected a folder or hub name, such as openai/whisper-tiny; received nothing")
    if (model.freeze_encoder or model.freeze_layers) and not model.pretrained:
        found.append("model.freeze_encoder and model.freeze_layers keep what was learned before: set model.pretrained")
    if model.front_end_by_clip is True and not (model.family == "wav2vec2" and model.freeze_front_end):
        found.append("model.front_end_by_clip needs model.family=wav2vec2 and model.freeze_front_end=true")
    if model.family == "parakeet" and model.chunk_frames:
        found.append("model.chunk_frames works with conformer and transformer; parakeet hears the whole clip")
    log_mel_only = {"whisper": ("warp", "equalize"), "wav2vec2": ("warp", "equalize", "spec_augment")}
    shaping = [t.type for t in config.augment if t.type in log_mel_only.get(model.family, ())]
    if shaping:
        found.append(f"augment: {', '.join(shaping)} do not work with the features of family {model.family}")
    if config.features.hop_length > config.features.n_fft:
        found.append("features.hop_length: expected at most features.n_fft, or audio is skipped between frames")
    if training.bf16 is True and training.fp16 is True:
        found.append("training.bf16, training.fp16: expected at most one of them; received both")
    if data.min_duration_seconds >= data.max_duration_seconds:
        found.append(
            f"data.min_duration_seconds: expected less than data.max_duration_seconds={data.max_duration_seconds}; "
            f"received {data.min_duration_seconds}"
        )
    if data.valid_ratio + data.test_ratio >= 1:
        found.append("data.valid_ratio + data.test_ratio: expected less than 1, or nothing is left to train on")
    if feed.producers and feed.home != "redis":
        found.append(f"feed.producers needs feed.home=redis; received {feed.home}")
    if feed.expire_seconds < feed.lease_seconds:  # heartbeats, a few times a lease, renew what would expire
        found.append(
            f"feed.expire_seconds: expected at least feed.lease_seconds={feed.lease_seconds:g}; "
            f"received {feed.expire_seconds}"
        )
    if training.include_validation and training.eval_strategy != "no":
        found.append(
            "training.include_validation needs training.eval_strategy=no, or the model is scored on what it learned; "
            f"received {training.eval_strategy}"
        )
    if training.eval_on_start and training.eval_strategy == "no":  # the start alone would be the best for ever
        found.append("training.eval_on_start needs training.eval_strategy epoch or steps; received no")
    if training.early_stopping_patience and training.eval_strategy == "no":
        found.append("training.early_stopping_patience needs training.eval_strategy epoch or steps; received no")
    return found + _rate_conflicts(config) + (_adapter_conflicts(config) if config.adapter.kind != "none" else [])


def _rate_conflicts(config: Config) -> list[str]:
    rates, model = config.training.learning_rates, config.model
    found = []
    if rates.decoder and model.family != "whisper":
        found.append(f"training.learning_rates.decoder works with whisper; received family {model.family}")
    if rates.head and model.family == "whisper":
        found.append("training.learning_rates.head works with CTC: Whisper's words come from its decoder")
    if rates.encoder and model.freeze_encoder:
        found.append("training.learning_rates.encoder: model.freeze_encoder=true leaves nothing there to learn")
    return found


def _adapter_conflicts(config: Config) -> list[str]:
    model, kind = config.model, f"adapter.kind={config.adapter.kind}"
    found = []
    if not model.pretrained:
        found.append(f"{kind} changes what was learned before: set model.pretrained")
    if not model.freeze_front_end:
        found.append(f"{kind} trains nothing but adapters and heads: it needs model.freeze_front_end=true")
    if model.freeze_encoder and model.family != "whisper":
        found.append(f"{kind} with model.freeze_encoder leaves no layer to adapt in family {model.family}")
    if config.training.torch_compile is True:
        found.append(f"{kind} with training.torch_compile: each validation merges the adapters, and compiles anew")
    return found
