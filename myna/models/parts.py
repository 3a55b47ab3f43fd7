"""The parts of a recogniser's network: which of them are kept as they are, and which learn at a rate of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from myna.errors import ModelError
from myna.models.ctc_model import CTCModel

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Part = Literal["encoder", "decoder", "head"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of modules and parameters.

    Attributes:
        before_layers: what the input passes before the encoder's first layer.
        layers: the encoder's stack of layers.
        encoder: all of the encoder, `before_layers` and `layers` included.
        decoder: everything of the decoder; empty for CTC.
        head: the layer that gives CTC's tokens; empty where the decoder's embeddings do it.
    """

    before_layers: tuple[str, ...]
    layers: str
    encoder: tuple[str, ...]
    decoder: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    def part_of(self, name: str) -> Part:
        """The part that a parameter belongs to, by its name in the model without adapters."""
        if is_within(name, self.decoder):
            return "decoder"
        return "head" if is_within(name, self.head) else "encoder"


def parts_of(model: PreTrainedModel) -> Parts:
    """The parts of one of our CTC models, of Whisper, of Parakeet, or of a CTC model of the wav2vec 2.0 family."""
    if isinstance(model, CTCModel):
        return Parts(("subsampling",), "layers", ("subsampling", "layers", "norm"), head=("head",))
    if hasattr(model, "proj_out"):
        before = tuple(f"model.encoder.{name}" for name in ("conv1", "conv2", "embed_positions"))
        return Parts(before, "model.encoder.layers", ("model.encoder",), decoder=("model.decoder", "proj_out"))
    if hasattr(model, "ctc_head"):
        return Parts(("encoder.subsampling",), "encoder.layers", ("encoder",), head=("ctc_head",))
    base = model.base_model_prefix
    names = ["feature_extractor", "layer_norm", "feature_projection", "masked_spec_embed", "encoder.pos_conv_embed"]
    if not getattr(model.config, "do_stable_layer_norm", False):  # else the encoder's own norm comes last
        names.append("encoder.layer_norm")
    existing = {name for name, _ in [*model.named_modules(), *model.named_parameters()]}
    before = tuple(f"{base}.{name}" for name in names if f"{base}.{name}" in existing)
    return Parts(before, f"{base}.encoder.layers", (base,), head=("lm_head",))


def frozen_names(model: PreTrainedModel, *, encoder: bool = False, layers: int = 0) -> list[str]:
    """Modules and parameters that are to be kept as they are.

    Args:
        model: without adapters.
        encoder: all of the encoder.
        layers: so many of its lowest layers, and all that comes before them.

    Raises:
        ModelError: fewer encoder layers than `layers`.
    """
    parts = parts_of(model)
    stack: nn.ModuleList = model.get_submodule(parts.layers)
    if layers > len(stack):
        raise ModelError(
            f"expected model.freeze_layers of at most {len(stack)}, the encoder's layers; received {layers}"
        )
    if encoder:
        return list(parts.encoder)
    return [*parts.before_layers, *(f"{parts.layers}.{index}" for index in range(layers))] if layers else []


def keep_layers(model: PreTrainedModel, *, encoder: int = 0, decoder: int = 0) -> None:
    """Leave out all but some layers, which are spaced evenly and include the first and the last (Gandhi et al. 2023).

    Args:
        model: without adapters; its configuration changes with it.
        encoder: layers of the encoder to keep; 0 keeps all.
        decoder: of Whisper's decoder, likewise.

    Raises:
        ModelError: it has fewer layers.
    """
    if encoder:
        kept = _keep(model, parts_of(model).layers, encoder, "encoder")
        config = getattr(model.config, "encoder_config", model.config)  # Parakeet has one apart
        for name in ("encoder_layers", "num_encoder_layers", "num_hidden_layers"):  # Whisper's, ours, the others'
            if hasattr(config, name):
                setattr(config, name, len(kept))
    if decoder:
        kept = _keep(model, "model.decoder.layers", decoder, "decoder")
        model.config.decoder_layers = len(kept)
        heads = getattr(model.generation_config, "alignment_heads", None) or []
        moved = [[kept.index(layer), head] for layer, head in heads if layer in kept]
        model.generation_config.alignment_heads = moved or None


def _keep(model: PreTrainedModel, name: str, count: int, part: str) -> list[int]:
    """Shorten a stack of layers; which of them are left."""
    stack: nn.ModuleList = model.get_submodule(name)
    if count > len(stack):
        raise ModelError(
            f"expected model.keep_{part}_layers of at most {len(stack)}, the {part}'s layers; received {count}"
        )
    kept = [index * (len(stack) - 1) // max(1, count - 1) for index in range(count)]
    for position, index in enumerate(kept):
        stack[position] = stack[index]  # never earlier than its own place
        for module in stack[position].modules():
            if "layer_idx" in vars(module):  # its place in the cache of keys and values
                vars(module)["layer_idx"] = position
    del stack[count:]
    return kept


def freeze_part(model: nn.Module, name: str) -> None:
    """Stop training a module or a parameter; no graph is built through the lowest of them.

    Raises:
        ModelError: the model has no such part.
    """
    found = dict(model.named_modules()).get(name) or dict(model.named_parameters()).get(name)
    if not name or found is None:
        raise ModelError(
            f"expected a module or parameter of {type(model).__name__} to freeze; received {name!r}",
            f"Its largest parts are {', '.join(name for name, _ in model.named_children())}.",
        )
    # Of wav2vec 2.0's front end freezing the weights is not enough: it would still ask for gradients of its input.
    for child_name, child in model.named_modules():
        if is_within(child_name, [name]) and hasattr(child, "_freeze_parameters"):
            child._freeze_parameters()
    found.requires_grad_(False)


def is_within(name: str, parts: tuple[str, ...] | list[str]) -> bool:
    """Whether a name is one of these parts or inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
