"""What a plan must know of a model: `ModelProfile`, from a model, a folder, a known name or a configuration of Myna."""

from __future__ import annotations

import difflib
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.errors import ModelError
from myna.models.adapters import adapter_targets, saved_modules, unquantized, without_adapters
from myna.models.audio_context import context_seconds, context_to_learn
from myna.models.parts import freeze_part, frozen_names, keep_layers
from myna.plan.profiles.known_models import ALIASES, KNOWN_MODELS
from myna.plan.profiles.model_spec import matches_target, rebuild_problem, spec_of, unwrapped
from myna.plan.request import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from myna.config import Config
    from myna.models.audio_context import AudioContext
    from myna.plan.request import ModelSpec

FP32_BYTES = 4
ADAMW_STATE_BYTES = 8  # two moments in fp32
NF4_BYTES = 0.5 + 1 / 64  # four bits, and an 8-bit scale for each block of 64 (Dettmers et al. 2023)
# What configurations call these; the first group that a configuration knows is taken, and summed.
HIDDEN_SIZE_NAMES = (("hidden_size",), ("d_model",))
LAYER_NAMES = (("encoder_layers", "decoder_layers"), ("num_hidden_layers",), ("num_encoder_layers",))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Figures of a model as it is trained."""

    name: str
    family: str  # conformer, transformer, wav2vec2, hubert, whisper, parakeet, ...
    parameters: int  # adapters included
    trainable: int
    hidden_size: int
    layers: int  # of encoder and decoder together
    parameter_bytes: int
    gradient_bytes: int  # fp32
    optimizer_bytes: int  # AdamW
    spec: ModelSpec
    context: AudioContext | None = None  # what Whisper hears of a clip; None is 30 s
    rebuild_problem: str = ""  # why no other process can rebuild it; its memory is then estimated by a formula

    @classmethod
    def of(cls, model: PreTrainedModel | nn.Module, name: str = "") -> ModelProfile:
        """A model that is loaded, on meta, or wrapped by peft, DDP or torch.compile; what is frozen stays frozen.

        Args:
            model: any `PreTrainedModel`.
            name: for people; the one it was loaded by for "".

        Raises:
            ModelError: it has no configuration of transformers, or adapters of another kind than LoRA.
        """
        outer = unwrapped(model)
        base = without_adapters(outer)
        spec = spec_of(outer, name)
        trainable = _count(parameter for parameter in outer.parameters() if parameter.requires_grad)
        parameters = _count(outer.parameters())
        parameter_bytes = sum(parameter.numel() * parameter.element_size() for parameter in outer.parameters())
        if spec.quantized:  # packed weights do not tell their number
            whole = _on_meta(type(base), type(base.config).from_dict(dict(spec.config)))
            adapters = trainable if spec.lora else 0
            parameters = _count(whole.parameters()) + adapters
            parameter_bytes = _quantized_bytes(whole) + FP32_BYTES * adapters
        problem = rebuild_problem(outer)
        if problem:
            logger.warning("%s: %s. Its memory can only be estimated by a formula.", spec.name, problem)
        return cls(
            name=spec.name,
            family=_family(base.config),
            parameters=parameters,
            trainable=trainable,
            hidden_size=_sum_of(base.config, HIDDEN_SIZE_NAMES),
            layers=_sum_of(base.config, LAYER_NAMES),
            parameter_bytes=parameter_bytes,
            gradient_bytes=FP32_BYTES * trainable,
            optimizer_bytes=ADAMW_STATE_BYTES * trainable,
            spec=spec,
            rebuild_problem=problem,
        )

    @classmethod
    def from_folder(
        cls,
        name: str | Path,
        *,
        vocab_size: int | None = None,
        frozen: Sequence[str] | None = None,
        lora: LoraSpec | None = None,
        quantized: bool = False,
    ) -> ModelProfile:
        """A model by its folder, its name on the hub, or a known size; no weights are read.

        Args:
            name: a folder with config.json (a run, a checkpoint), `org/name`, or a name such as whisper-small.
            vocab_size: output tokens of a CTC head; None as configured.
            frozen: modules or parameters that are not trained; None is the family's custom (the convolutional front end
                of wav2vec 2.0 and its relatives), () is nothing.
            lora: adapters; everything else is then frozen.
            quantized: linear layers held in 4 bits.

        Raises:
            ModelError: no such model, or a part to freeze that it does not have.
        """
        config, model_class = _find(str(name))
        if vocab_size is not None:
            config.vocab_size = vocab_size
        model = _on_meta(model_class, config)
        for part in _custom_frozen(model) if frozen is None else frozen:
            freeze_part(model, part)
        return _with_adapters(cls.of(model, Path(name).name), model, lora, quantized)

    @classmethod
    def from_config(cls, config: Config, vocab_size: int = 64) -> ModelProfile:
        """The model that a configuration of Myna trains.

        Args:
            config: the whole of it.
            vocab_size: tokens of a tokenizer that is not learned yet.

        Raises:
            ModelError: `model.pretrained` is no model.
        """
        from myna.models.build import ctc_model_of
        from myna.models.pretraining import prepare_config

        settings = config.model
        if settings.pretrained:
            model_config, model_class = _find(settings.pretrained)
        else:
            model_class, model_config = ctc_model_of(config, vocab_size)
        if config.training.objective == "pretrain":
            model_class = prepare_config(model_config, config.pretrain)
        model = _on_meta(model_class, model_config)
        if not settings.pretrained:
            return cls.of(model, settings.family)
        keep_layers(model, encoder=settings.keep_encoder_layers, decoder=settings.keep_decoder_layers)
        frozen = frozen_names(model, encoder=settings.freeze_encoder, layers=settings.freeze_layers)
        for part in [*frozen, *(_custom_frozen(model) if settings.freeze_front_end else ())]:
            freeze_part(model, part)
        profile, adapter = cls.of(model, Path(settings.pretrained).name), config.adapter
        profile = replace(profile, context=context_to_learn(settings))
        if adapter.kind == "none":
            return profile
        targets = tuple(adapter_targets(model, adapter.target_modules, frozen))
        saved = tuple(saved_modules(model, adapter.modules_to_save))
        lora = LoraSpec(adapter.rank, targets, adapter.dropout, saved)
        return _with_adapters(profile, model, lora, adapter.kind == "qlora")

    def padded_seconds(self, durations_seconds: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """What clips of these lengths cost once the front end has padded them."""
        if self.family == "whisper":
            return context_seconds(durations_seconds, self.context)
        return np.asarray(durations_seconds, dtype=np.float64)

    @property
    def state_bytes(self) -> int:
        """Parameters, gradients and optimizer state together: what is held whatever the batch."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _find(name: str) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """Configuration and class of a folder, a known size or a model on the hub."""
    import transformers

    known = Path(name).name.lower()
    known = ALIASES.get(known, known)
    if Path(name).is_dir():
        from myna.models.folders import find_model

        return _read(str(find_model(name)))
    if known in KNOWN_MODELS:
        model = KNOWN_MODELS[known]
        return getattr(transformers, model.config_class)(**model.config), getattr(transformers, model.model_class)
    if name.count("/") == 1 and not Path(name).is_absolute():
        return _read(name)
    near = difflib.get_close_matches(known, [*KNOWN_MODELS, *ALIASES], n=2, cutoff=0.5)
    raise ModelError(
        f"{name}: expected a folder with config.json, a model on the hub such as openai/whisper-small, or a known "
        "name; received none of these",
        f"Did you mean {' or '.join(near)}?" if near else f"Known names are {', '.join(KNOWN_MODELS)}.",
    )


def _read(name: str) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """By config.json alone, of a folder or from the hub."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING

    from myna.models.processors import CTC_MODELS  # also makes our own configurations known to AutoConfig
    from myna.models.weights import model_errors, quiet

    with model_errors(name, "speech recogniser's"), quiet():
        config = AutoConfig.from_pretrained(name)
    ours = dict(CTC_MODELS.values())
    for mapping in (ours, MODEL_FOR_CTC_MAPPING, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING):
        if type(config) in mapping:
            return config, mapping[type(config)]
    raise ModelError(
        f"{name}: expected a model for speech recognition; received model_type {config.model_type}",
        "Give a CTC or sequence-to-sequence speech model.",
    )


def _on_meta(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """The model without weights."""
    import torch

    from myna.models.weights import quiet

    with torch.device("meta"), quiet():
        return model_class._from_config(config, dtype=torch.float32)


def _custom_frozen(model: nn.Module) -> list[str]:
    """What is usually not fine-tuned: the convolutions of wav2vec 2.0 and its relatives."""
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "feature_extractor" and hasattr(module, "conv_layers")
    ]


def _with_adapters(
    profile: ModelProfile, model: PreTrainedModel, lora: LoraSpec | None, quantized: bool
) -> ModelProfile:
    """Each adapted layer gets two matrices, (rank, inputs) and (outputs, rank); modules trained whole are copied."""
    from torch import nn

    if quantized:
        held = _quantized_bytes(model)
        profile = replace(profile, spec=replace(profile.spec, quantized=True), parameter_bytes=held)
    if lora is None:
        return profile

    adapted = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(matches_target(name, target) for target in lora.targets)
    ]
    if not adapted:
        raise ModelError(
            f"expected linear layers of {profile.name} named {', '.join(lora.targets)}; it has none",
            "Name such layers, for instance q_proj and v_proj.",
        )
    adapters = lora.rank * sum(layer.in_features + layer.out_features for layer in adapted)
    adapters += sum(
        _count(module.parameters())
        for name, module in model.named_modules()
        if any(matches_target(name, saved) for saved in lora.saved)
    )
    return replace(
        profile,
        parameters=profile.parameters + adapters,
        trainable=adapters,
        parameter_bytes=profile.parameter_bytes + FP32_BYTES * adapters,
        gradient_bytes=FP32_BYTES * adapters,
        optimizer_bytes=ADAMW_STATE_BYTES * adapters,
        spec=replace(profile.spec, lora=lora, frozen=tuple(_custom_frozen(model))),
    )


def _quantized_bytes(model: PreTrainedModel) -> int:
    """Parameters with linear layers in 4 bits; the head, as transformers leaves it, and everything else in fp32."""
    from torch import nn

    whole = unquantized(model.config.model_type)
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(whole)
    )
    return int(FP32_BYTES * (_count(model.parameters()) - linear) + NF4_BYTES * linear)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _family(config: PretrainedConfig) -> str:
    family: str = config.model_type.removeprefix("myna-").removesuffix("_ctc")
    return family


def _sum_of(config: PretrainedConfig, names: Iterable[Sequence[str]]) -> int:
    inner = getattr(config, "encoder_config", config)  # Parakeet's
    for group in names:
        if all(hasattr(inner, name) for name in group):
            return sum(getattr(inner, name) for name in group)
    return 0
