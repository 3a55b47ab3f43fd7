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
