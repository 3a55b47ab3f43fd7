"""A step's memory from a configuration alone: above the truth, at once and without torch.

For when a step cannot be traced, and for a quick "this surely fits". It counts what each part of a model saves for
the backward pass, in fp32 whatever the precision, as if nothing were freed before everything is in use. How far above
the traced peaks it lies is measured in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import Polynomial

from myna.errors import ModelError
from myna.models.audio_context import WINDOW_SECONDS
from myna.plan.memory.anatomy import Anatomy, Stack, anatomy
from myna.plan.memory.fit import BoundedMemory
from myna.plan.memory.polynomials import CLIP_SECONDS, CLIP_SECONDS_SQUARED, CLIPS, CONSTANT, NUM_TERMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myna.plan.memory.model import MemoryModel
    from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec

# Floats that a layer saves at each position, in units of its width and of its inner width: counted from traces.
WIDTHS_SAVED = {"transformer": 11.0, "conformer": 26.0}
WIDTHS_SAVED_ACROSS = 6.0  # more, by attention to another stack
INNERS_SAVED = {"transformer": 2.5, "conformer": 5.0}
HALF_SHARE = 0.75  # of the fp32 bytes of a layer that are left in half precision: norms and residuals stay in fp32
MAPS_SAVED = 4.0  # attention maps where the kernel is not a fused one: scores, softmax, dropout mask, dropped
MAPS_SAVED_RELATIVE = 9.0
MASK_MAPS = 2.0  # a fused kernel's mask, of one head
FRONT_SAVED = 4.5  # floats a float that a layer of a trained front end gives: convolution, norm, activation, copies
FRONT_FROZEN = 4.5  # of a frozen one's largest layer, while it runs
LOGITS = 5.0  # copies of the logits: half and full precision, log-softmax, gradients, transposed
OPTIMIZER_STATE_BYTES = {"adamw_torch_fused": 8.0, "adamw_torch": 8.0, "adamw_8bit": 2.3, "adafactor": 0.2}
OPTIMIZER_TEMPORARY_BYTES = {"adamw_torch_fused": 0.0, "adamw_torch": 8.0, "adamw_8bit": 0.0, "adafactor": 0.0}
QUANTIZED_BYTES = 0.53  # a 4-bit weight and its share of a scale
FLOAT_BYTES = 4


def closed_formula(request: MemoryRequest) -> MemoryModel:
    """The bound of a request.

    Raises:
        ModelError: a family whose configuration is not known, or a model in pre-training.
    """
    if request.model.model_class.endswith("ForPreTraining"):
        raise ModelError(f"expected a recogniser; received {request.model.model_class}, which no formula bounds")
    sizes = anatomy(request.model.config, request.labels_per_second)
    settings, training = request.settings, request.activity == "train"
    parameters = sizes.parameters
    trainable = _trainable(request.model, sizes)
    held = {"parameters": _constant(_weight_bytes(request.model, sizes)), "batch": _per_clip(2 * sizes.inputs)}
    teacher = None
    if request.teacher:
        teacher = anatomy(request.teacher.config, request.labels_per_second)
        held["parameters"] = held["parameters"] + _constant(_weight_bytes(request.teacher, teacher))
        passing = _passing(teacher, request)
        hears_all = request.teacher.config.get("model_type") == "whisper"  # 30 s of a clip whose student hears less
        held["activations"] = _per_clip(Polynomial([passing(WINDOW_SECONDS)]) if hears_all else passing)
    if settings.precision != "fp32":
        held["autocast_copies"] = _constant(2.0 * parameters)
    if training:
        held["gradients"] = _constant(FLOAT_BYTES * trainable)
        held["optimizer_state"] = _constant(OPTIMIZER_STATE_BYTES[settings.optimizer] * trainable)
    bounds = {
        "backward" if training else "evaluate": held
        | {
            "activations": held.get("activations", _constant(0))
            + _per_clip(_saved(sizes, request) if training else _passing(sizes, request)),
            "temporaries": _per_clip(_temporaries(sizes, request)),
        }
    }
    if training:
        temporary = OPTIMIZER_TEMPORARY_BYTES[settings.optimizer] * trainable
        if settings.optimizer == "adafactor":
            temporary += 4 * FLOAT_BYTES * _largest_matrix(sizes)
        bounds["optimizer"] = held | {"optimizer_temporaries": _constant(temporary)}
    passes = (4 if settings.gradient_checkpointing else 3) if training else 1  # a backward pass costs two forward ones
    flops = _per_clip(passes * _forward_flops(sizes), unit=1)
    if teacher and training:
        asked = _forward_flops(teacher)
        flops = flops + _per_clip(Polynomial([asked(WINDOW_SECONDS)]) if hears_all else asked, unit=1)
    return BoundedMemory(request, parameters, trainable, bounds=bounds, flop_coefficients=flops)


def _constant(amount: float) -> NDArray[np.float64]:
    coefficients = np.zeros(NUM_TERMS)
    coefficients[CONSTANT] = amount
    return coefficients


def _per_clip(floats: Polynomial, unit: int = FLOAT_BYTES) -> NDArray[np.float64]:
    """Coefficients of B times a polynomial of T, in bytes."""
    coefficients = np.zeros(NUM_TERMS)
    for term, value in zip((CLIPS, CLIP_SECONDS, CLIP_SECONDS_SQUARED), floats.coef, strict=False):
        coefficients[term] = unit * float(value)
    return coefficients


def _front_is_frozen(spec: ModelSpec) -> bool:
    return spec.lora is not None or any("feature_e" in name for name in spec.frozen)


def _trainable(spec: ModelSpec, sizes: Anatomy) -> int:
    """At most: of what is frozen by name, only adapters are looked at."""
    if spec.lora is None:
        return sizes.parameters
    adapters = sum(
        stack.layers * (1 if stack.memory is None else 2) * _adapted_kinds(spec.lora) * spec.lora.rank
        * (stack.width + max(3 * stack.width, stack.inner))
        for stack in sizes.stacks
    )  # fmt: skip
    return adapters + len(spec.lora.saved) * sizes.other_parameters


def _adapted_kinds(lora: LoraSpec) -> int:
    """Adapted layers within a layer of a stack, where each is named: at most one of each name."""
    return len({target.rpartition(".")[2] for target in lora.targets})


def _weight_bytes(spec: ModelSpec, sizes: Anatomy) -> float:
    linear = sum(stack.layers * stack.layer_parameters for stack in sizes.stacks)
    if not spec.quantized:
        return float(FLOAT_BYTES * (linear + sizes.other_parameters + (_trainable(spec, sizes) if spec.lora else 0)))
    return QUANTIZED_BYTES * linear + FLOAT_BYTES * (sizes.other_parameters + _trainable(spec, sizes))


def _layer_floats(stack: Stack, request: MemoryRequest) -> Polynomial:
    """What one layer saves for one clip."""
    settings, kind = request.settings, "conformer" if stack.convolves else "transformer"
    widths = WIDTHS_SAVED[kind] + (WIDTHS_SAVED_ACROSS if stack.memory is not None else 0.0)
    if request.model.lora is not None:
        widths += _adapted_kinds(request.model.lora)  # each adapter drops out a copy of its input
    floats = (widths * stack.width + INNERS_SAVED[kind] * stack.inner) * stack.positions
    fused = settings.device == "cuda" and settings.attention in ("flash", "efficient")
    maps = MASK_MAPS if fused else MAPS_SAVED * stack.heads
    if stack.relative:
        maps = MAPS_SAVED_RELATIVE * stack.heads
    floats = floats + maps * stack.positions * stack.positions
    if stack.memory is not None:
        floats = floats + 3.0 * stack.width * stack.memory + maps * stack.positions * stack.memory
    return floats * (1.0 if settings.precision == "fp32" else HALF_SHARE)


def _front(sizes: Anatomy, request: MemoryRequest) -> Polynomial:
    if _front_is_frozen(request.model):
        largest = max(sizes.front_layers, key=lambda layer: layer(1.0))
        return FRONT_FROZEN * largest
    return FRONT_SAVED * sum(sizes.front_layers, Polynomial([0.0]))


def _saved(sizes: Anatomy, request: MemoryRequest) -> Polynomial:
    """What is saved for the backward pass of one clip."""
    floats = _front(sizes, request) + LOGITS * sizes.vocabulary * sizes.outputs
    # CTC's table of log-alpha, and of log-beta
    floats = floats + 4.0 * sizes.outputs * Polynomial([4.0, request.labels_per_second])
    for stack in sizes.stacks:
        layer = _layer_floats(stack, request)
        inputs = stack.width * stack.positions
        between = (1 if stack.memory is None else 2) * inputs
        floats = floats + (
            stack.layers * between + layer if request.settings.gradient_checkpointing else stack.layers * layer
        )
        floats = floats + 8.0 * inputs  # embeddings, positions, masks, the last norm
    return floats


def _temporaries(sizes: Anatomy, request: MemoryRequest) -> Polynomial:
    """Gradients of one layer's activations."""
    return max((_layer_floats(stack, request) for stack in sizes.stacks), key=lambda layer: layer(10.0))


def _passing(sizes: Anatomy, request: MemoryRequest) -> Polynomial:
    """What a forward pass without gradients holds for one clip, keys and values to decode with included."""
    floats = (
        FRONT_FROZEN * max(sizes.front_layers, key=lambda layer: layer(1.0)) + LOGITS * sizes.vocabulary * sizes.outputs
    )
    for stack in sizes.stacks:
        floats = floats + 8.0 * stack.width * stack.positions
        if stack.memory is not None:
            floats = floats + 2.0 * stack.layers * stack.width * (stack.positions + stack.memory)
    return floats


def _largest_matrix(sizes: Anatomy) -> float:
    return float(max(stack.width * max(stack.inner, 2 * stack.width, sizes.vocabulary) for stack in sizes.stacks))


def _forward_flops(sizes: Anatomy) -> Polynomial:
    """Of one clip, by its seconds; multiply-adds count as two."""
    forward = sizes.front_flops
    for stack in sizes.stacks:
        attended = stack.positions if stack.memory is None else stack.positions + stack.memory
        forward = forward + 2.0 * stack.layers * stack.layer_parameters * stack.positions
        forward = forward + 4.0 * stack.layers * stack.width * stack.positions * attended
    return forward + 2.0 * sizes.vocabulary * sizes.stacks[-1].width * sizes.outputs
