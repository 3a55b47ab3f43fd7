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
    if not config.distillation.teacher and config.distillation != type(config.distillation)():
        found.append("distillation needs distillation.teacher; received none")
    if config.distillation.teacher == "self" and not model.pretrained:
        found.append(
            "distillation.teacher=self is model.pretrained as it was: set model.pretrained, or another teacher"
        )
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
    if config.ttq.milestones or training.stop_at != "never":
        found += _milestone_conflicts(config)
    if model.audio_context == "auto":
        found += _context_conflicts(config)
    if model.keep_encoder_layers or model.keep_decoder_layers:
        found += _layer_conflicts(config)
    if training.objective == "pretrain":
        found += _pretrain_conflicts(config)
    if training.fsdp:
        found += _shard_conflicts(config)
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


def _milestone_conflicts(config: Config) -> list[str]:
    training, milestones = config.training, config.ttq.milestones
    found = []
    for number, milestone in enumerate(milestones):
        if (milestone.wer is None) == (milestone.cer is None):
            received = "neither" if milestone.wer is None else "both"
            found.append(f"ttq.milestones.{number}: expected wer or cer, in percent; received {received}")
    if milestones and (training.eval_strategy == "no" or training.objective == "pretrain"):
        found.append(
            "ttq.milestones are measured in validation: they need training.eval_strategy epoch or steps and "
            f"training.objective=transcribe; received {training.eval_strategy} and {training.objective}"
        )
    if not milestones:
        found.append(f"training.stop_at={training.stop_at} needs ttq.milestones; received none")
    return found


def _context_conflicts(config: Config) -> list[str]:
    found = []
    if config.model.family != "whisper":
        found.append(f"model.audio_context=auto works with whisper; received family {config.model.family}")
    if config.training.eval_strategy == "no" or not config.training.eval_on_start:
        found.append(
            "model.audio_context=auto is kept only where validation shows no loss, the untouched start included: it "
            "needs training.eval_strategy epoch or steps and training.eval_on_start=true; or set "
            "model.audio_context=full"
        )
    return found


def _pretrain_conflicts(config: Config) -> list[str]:
    model, training, pretrain = config.model, config.training, config.pretrain
    objective = "training.objective=pretrain"
    found = []
    if model.family == "whisper":
        found.append(f"{objective} works with conformer, transformer and wav2vec2: Whisper learns from texts alone")
    if config.adapter.kind != "none":
        found.append(f"{objective} trains whole encoders; received adapter.kind={config.adapter.kind}")
    if model.freeze_encoder or model.freeze_layers:
        found.append(f"{objective} trains the encoder: it needs model.freeze_encoder=false and model.freeze_layers=0")
    if config.distillation.teacher:
        found.append(f"{objective} says no tokens that a teacher could: it needs distillation.teacher empty")
    if training.learning_rates.model_dump(exclude_none=True):
        found.append(f"{objective} has one learning rate; received training.learning_rates")
    if training.metric_for_best_model != "loss":
        found.append(
            f"{objective} needs training.metric_for_best_model=loss, since nothing is written down; received "
            f"{training.metric_for_best_model}"
        )
    if pretrain.codevector_dim % pretrain.num_codevector_groups:
        found.append(
            f"pretrain.codevector_dim: expected a multiple of pretrain.num_codevector_groups="
            f"{pretrain.num_codevector_groups}; received {pretrain.codevector_dim}"
        )
    if pretrain.min_gumbel_temperature > pretrain.max_gumbel_temperature:
        found.append(
            f"pretrain.min_gumbel_temperature: expected at most pretrain.max_gumbel_temperature="
            f"{pretrain.max_gumbel_temperature:g}; received {pretrain.min_gumbel_temperature:g}"
        )
    return found


def _shard_conflicts(config: Config) -> list[str]:
    training, found = config.training, []
    if config.adapter.kind != "none":
        found.append(f"training.fsdp with adapter.kind={config.adapter.kind}: adapters are small, each rank holds them")
    if training.fp16 is True:
        found.append("training.fsdp with training.fp16: ranks would scale gradients apart; use training.bf16=true")
    untested = {
        "distillation.teacher": config.distillation.teacher,
        "training.objective=pretrain": training.objective == "pretrain",
        "model.audio_context=auto": config.model.audio_context == "auto",
        "training.torch_compile": training.torch_compile is True,
    }
    found += [f"training.fsdp with {name}: not supported together" for name, is_set in untested.items() if is_set]
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


def _layer_conflicts(config: Config) -> list[str]:
    found = []
    if not config.model.pretrained:
        found.append(
            "model.keep_encoder_layers and model.keep_decoder_layers choose from a model: set model.pretrained"
        )
    if config.model.keep_decoder_layers and config.model.family != "whisper":
        found.append(
            f"model.keep_decoder_layers: expected 0 for family {config.model.family}, which has no decoder; "
            f"received {config.model.keep_decoder_layers}"
        )
    if config.adapter.kind != "none":
        found.append(
            "model.keep_encoder_layers and model.keep_decoder_layers do not go with adapter.kind="
            f"{config.adapter.kind}: adapters are saved without their base, which must be a whole model"
        )
    return found
