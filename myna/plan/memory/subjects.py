"""What a traced step works on, from a request: model, batch and optimizer."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor  # here, since importing it makes tensors: not under a ledger

from myna.errors import ModelError
from myna.models.parts import freeze_part
from myna.plan.memory.polynomials import whisper_positions
from myna.plan.memory.stand_ins import Adam8bit, quantize
from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec, StepSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_SECOND = 100  # of log-mel features, one every 10 ms
MEL_BINS = 80  # where a configuration says nothing, and what stacked features are made of
MEL_BIN_NAMES = ("n_mels", "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
LABEL_ID = 1

Inputs = dict[str, Tensor]


def build_model(spec: ModelSpec, settings: StepSettings, *, real: bool = False) -> PreTrainedModel:
    """The model with everything that decides its memory, on the default device of the moment.

    Args:
        spec: what to build.
        settings: how it is trained.
        real: it will compute something. Else what repeats for each clip is done for two, so that the order of events
            does not depend on the batch.

    Raises:
        ModelError: a class cannot be found, or `frozen` names a part that the model does not have.
    """
    config = _find(spec.config_class).from_dict(spec.config)
    _drop_no_layer(config)
    attention = {"attn_implementation": "eager"} if settings.attention == "eager" else {}
    model = _find(spec.model_class)._from_config(config, dtype=torch.float32, **attention)
    model.config.use_cache = False
    for name in spec.frozen:
        freeze_part(model, name)
    if settings.front_end_by_clip:
        from myna.models.front_end import run_front_end_by_clip

        run_front_end_by_clip(model, at_most_clips=None if real else 2)
    if is_whisper(model):
        from myna.models.whisper_encoder import hear_clips

        hear_clips(model)
    if spec.quantized:
        quantize(model)
    # Gradient checkpointing has another name in some releases of transformers, which peft does not know either.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        if spec.lora:
            model = _with_adapters(model, spec.lora)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"expected a class as module:name; received {path!r} ({error})", "See that its package is installed."
        ) from error
    return found


def _drop_no_layer(config: PreTrainedConfig) -> None:
    """Layer drop, under its several names, at 0: the largest step is the one that drops no layer."""
    for name, value in vars(config).items():
        if name.endswith("layerdrop"):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):  # of an encoder or decoder inside
            _drop_no_layer(value)


def _with_adapters(model: PreTrainedModel, lora: LoraSpec) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank, target_modules=list(lora.targets), lora_dropout=lora.dropout, modules_to_save=list(lora.saved)
    )
    adapted: PreTrainedModel = get_peft_model(model, config)
    return adapted


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All weights, and those that are trained; a byte of a quantized weight holds two."""
    counts = [(p.numel() * (2 if p.dtype == torch.uint8 else 1), p.requires_grad) for p in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def make_batch(model: PreTrainedModel, request: MemoryRequest, clips: int, seconds: float) -> Inputs:
    """A batch as the model's forward takes it, on the default device of the moment.

    Args:
        model: decides the kind of input and, from its configuration, the feature size.
        request: decides the number of labels, and whether there is a padding mask.
        clips: B.
        seconds: of every clip, as its model pads it.

    Returns:
        The forward's arguments. Labels are (B, U), U = labels per second * seconds, two at least; in pre-training there
        are masks in their place.
    """
    if hasattr(model, "quantizer"):
        return _pretraining_batch(model, request, clips, seconds)
    name = model.main_input_name
    num_labels = max(2, int(request.labels_per_second * seconds))
    labels = torch.full((clips, num_labels), LABEL_ID)
    frames = int(FRAMES_PER_SECOND * seconds) + 1
    mel_bins = _mel_bins(model.config)
    if name == "features":  # Myna's own
        return {
            "features": torch.zeros(clips, frames, mel_bins),
            "feature_lengths": torch.full((clips,), frames),
            "labels": labels,
            "label_lengths": torch.full((clips,), num_labels),
        }
    if is_whisper(model):
        return {"input_features": torch.zeros(clips, 2 * whisper_positions(seconds), mel_bins), "labels": labels}
    if name == "input_features":
        stacked = mel_bins // MEL_BINS if hasattr(model.config, "feature_projection_input_dim") else 1
        length = frames // stacked
        inputs = torch.zeros(clips, length, mel_bins)
    else:
        length = int(SAMPLE_RATE_HZ * seconds)
        inputs = torch.zeros(clips, length)
    batch = {name: inputs, "labels": labels}
    if _takes_mask(model, request.settings):
        mask = torch.ones(clips, length, dtype=torch.long)
        mask[0, length // 2 :] = 0  # models may drop a mask that hides nothing
        batch["attention_mask"] = mask
    return batch


def _pretraining_batch(model: Any, request: MemoryRequest, clips: int, seconds: float) -> Inputs:
    """With as many masked frames as spans without an overlap have; `contrastive.Masking` says what is what."""
    if model.main_input_name == "features":
        length = int(FRAMES_PER_SECOND * seconds) + 1
        batch = {
            "features": torch.zeros(clips, length, _mel_bins(model.config)),
            "feature_lengths": torch.full((clips,), length),
        }
    else:
        length = int(SAMPLE_RATE_HZ * seconds)
        batch = {"input_values": torch.zeros(clips, length)}
        if _takes_mask(model, request.settings):
            batch["attention_mask"] = torch.ones(clips, length, dtype=torch.long)
    config, frames = model.config, model.num_frames(length)
    masked = min(frames, int(config.mask_time_prob * frames) + config.mask_time_length)
    codes = config.num_codevector_groups, config.num_codevectors_per_group
    batch["positions"] = torch.arange(masked).expand(clips, -1).contiguous()
    batch["counts"] = torch.full((clips,), masked)
    batch["negatives"] = torch.zeros(clips, masked, config.num_negatives, dtype=torch.long)
    if request.activity == "train":
        batch["noise"] = torch.zeros(clips, masked, *codes)
    return batch


def is_whisper(model: PreTrainedModel) -> bool:
    """Whether the model learns as `myna.models.whisper` says."""
    return bool(model.config.model_type == "whisper")


def _mel_bins(config: Any) -> int:
    for part in (config, getattr(config, "encoder_config", None)):
        for name in MEL_BIN_NAMES:
            if getattr(part, name, None):
                return int(getattr(part, name))
    return MEL_BINS


def _takes_mask(model: PreTrainedModel, settings: StepSettings) -> bool:
    """Padded batches have one. The flash kernel wants none; nor do group-normalised front ends; spectra always do."""
    base = getattr(model, "get_base_model", lambda: model)()  # without adapters
    accepts = "attention_mask" in inspect.signature(type(base).forward).parameters
    if model.main_input_name == "input_features":
        return accepts
    return accepts and settings.attention != "flash" and getattr(model.config, "feat_extract_norm", "") != "group"


def make_optimizer(model: nn.Module, settings: StepSettings) -> torch.optim.Optimizer:
    """What `transformers.TrainingArguments(optim=...)` would use; matrices decay and vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": 0.01},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match settings.optimizer:
        case "adamw_torch_fused":
            return torch.optim.AdamW(groups, fused=True)
        case "adamw_torch":  # torch takes foreach on CUDA; it does not know that fake tensors can do it
            return torch.optim.AdamW(groups, foreach=settings.device == "cuda")
        case "adamw_8bit":
            embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
            return Adam8bit(groups, embeddings)
        case "adafactor":
            optimizer: torch.optim.Optimizer = Adafactor(groups, lr=1e-3, scale_parameter=False, relative_step=False)
            return optimizer
