"""The convolutional front end of the wav2vec 2.0 family: frozen, and one clip at a time.

Its first layer turns 16,000 samples a second into 3,200 vectors, so a batch's activations there are larger than
anywhere else. Where the front end is frozen nothing of them is needed backwards: clip by clip, only one clip's exist.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import TYPE_CHECKING

import torch

from myna.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def front_end_of(model: nn.Module) -> nn.Module:
    """The convolutional front end of a transformers model, perhaps wrapped: (B, samples) to (B, channels, frames).

    Raises:
        ModelError: the model has none of this kind.
    """
    module: nn.Module
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "feature_extractor" and hasattr(module, "conv_layers"):
            return module
    raise ModelError(
        f"expected a model with a convolutional front end, as wav2vec 2.0, HuBERT and WavLM have; received a "
        f"{type(model).__name__}"
    )


def freeze_front_end(model: nn.Module) -> None:
    """Keep the front end's weights as they are.

    Raises:
        ModelError: the model has no such front end.
    """
    front_end_of(model)._freeze_parameters()  # type: ignore[operator]


def run_front_end_by_clip(model: nn.Module, *, at_most_clips: int | None = None) -> None:
    """From now on the frozen front end hears a batch one clip after another, at the batch's padded length.

    A clip's output is the same as in a batch, with group normalisation too, whose statistics are each clip's own.
    Weights and their names stay; saving, gradient checkpointing and autocast see no difference.

    Args:
        model: perhaps wrapped.
        at_most_clips: of a batch, the others stay unheard: memory planning asks for two, since none takes more.

    Raises:
        ModelError: the model has no such front end, or it is trained.
    """
    front_end = front_end_of(model)
    if any(parameter.requires_grad for parameter in front_end.parameters()):
        raise ModelError(
            "expected a frozen front end to run clip by clip; received one that is trained",
            "Set model.freeze_front_end=true, or model.front_end_by_clip=false.",
        )
    freeze_front_end(model)  # frozen from outside, it would still ask for gradients of its input
    front_end.forward = MethodType(
        partial(_forward_by_clip, at_most_clips=at_most_clips), front_end
    )  # on the object: a deep copy takes it along


def _forward_by_clip(front_end: nn.Module, input_values: Tensor, at_most_clips: int | None) -> Tensor:
    batched: Callable[[nn.Module, Tensor], Tensor] = type(front_end).forward
    with torch.no_grad():
        first = batched(front_end, input_values[:1])  # (1, C, T)
        if len(input_values) == 1:
            return first
        # Channels lie next to each other after layer normalisation; what follows would else copy everything.
        shape, strides = (len(input_values), *first.shape[1:]), (first.numel(), *first.stride()[1:])
        outputs = first.new_empty_strided(shape, strides)  # (B, C, T)
        outputs[:1] = first
        del first
        for row in range(1, min(len(input_values), at_most_clips or len(input_values))):
            outputs[row : row + 1] = batched(front_end, input_values[row : row + 1])
    return outputs
