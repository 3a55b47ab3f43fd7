"""Low-rank adapters on a recogniser's model, by peft: LoRA (Hu et al. 2021) and QLoRA (Dettmers et al. 2023).

A LoRA layer adds `scale * B A x` to what a frozen linear layer makes of x; A is (rank, inputs), B (outputs, rank), and
B starts at 0. In QLoRA the frozen layer is held in 4 bits (nf4). Saved adapters are merged into full precision only:
rounding the sum to 4 bits again would change what was learned.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from myna.errors import MissingExtraError, ModelError
from myna.models.metadata import read_json
from myna.models.parts import is_within, parts_of
from myna.models.weights import model_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import BitsAndBytesConfig, PreTrainedModel

    from myna.sections import AdapterConfig

WEIGHTS_FILE, SETTINGS_FILE = "adapter_model.safetensors", "adapter_config.json"  # as peft names them
NAME = "default"  # of the one adapter, as peft names it
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj")
OURS_ATTENTION, OURS_FORWARD = ("qkv", "out"), ("expand", "contract", "gate", "conv.project")
FORWARD = ("fc1", "fc2", "intermediate_dense", "output_dense", "linear1", "linear2")
# Kept whole in 4-bit models: heads; what wav2vec 2.0 masks in place, which 4-bit layers' outputs do not survive.
NEVER_QUANTIZED = ("proj_out", "lm_head", "head", "feature_projection.projection", "feature_projection")

USED_BY_WEIGHT = ("wavlm",)  # multiplies by its attention's weights without calling the layers: adapters have no effect


def is_adapted(model: Any) -> bool:
    """Whether peft has wrapped the model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def without_adapters(model: Any) -> Any:
    """The model inside peft's wrapper, adapters still in its layers."""
    return model.get_base_model() if is_adapted(model) else model


def adapter_targets(model: PreTrainedModel, wanted: str | Sequence[str], frozen: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers that get adapters, by their ends where that is enough.

    Args:
        model: without adapters.
        wanted: `auto` for the attention's projections, `all` for those and the feed-forward layers, or ends of names.
        frozen: modules that are to stay as they are altogether.

    Raises:
        ModelError: a name that no linear layer has, or layers that adapters cannot change.
    """
    heads = parts_of(model).head
    linear = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not is_within(name, heads)
    ]
    unused = ATTENTION if model.config.model_type in USED_BY_WEIGHT else ()
    if isinstance(wanted, str):
        attention, forward = ([*ATTENTION, *OURS_ATTENTION], [*FORWARD, *OURS_FORWARD])
        asked = attention if wanted == "auto" and not unused else [*attention, *forward]
        targets = [end for end in asked if end not in unused and _ending(linear, end)]
    else:
        targets = list(wanted)
        missing = [end for end in targets if not _ending(linear, end)]
        useless = [end for end in targets if end.rpartition(".")[2] in unused]
        if missing or useless:
            ends = sorted({name.rpartition(".")[2] for name in linear} - set(unused))
            raise ModelError(
                f"adapter.target_modules: expected linear layers that adapters can change, such as {', '.join(ends)}; "
                f"received {', '.join(missing or useless)}"
            )
    meant = [name for name in linear if any(_ending([name], end) for end in targets)]
    kept = [name for name in meant if not is_within(name, list(frozen))]
    if not kept:
        raise ModelError("adapter: expected layers that are not frozen; all that could be adapted are")
    return targets if kept == meant else kept


def saved_modules(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    """What is trained whole beside the adapters: the head of a CTC model always, and what is asked for.

    Raises:
        ModelError: the model has no such module.
    """
    names = [name for name, _ in model.named_modules()]
    missing = [end for end in wanted if not _ending(names, end)]
    if missing:
        raise ModelError(
            f"adapter.modules_to_save: expected modules of {type(model).__name__}; received {', '.join(missing)}"
        )
    return list(dict.fromkeys([*parts_of(model).head, *wanted]))


def add_adapters(
    model: PreTrainedModel, settings: AdapterConfig, *, base: str, frozen: Sequence[str] = ()
) -> PreTrainedModel:
    """The model with fresh adapters, which change nothing yet; all else but the saved modules is frozen.

    Args:
        model: as it was loaded, its linear layers perhaps in 4 bits.
        settings: the adapter section.
        base: where the model came from, for peft.
        frozen: modules that get no adapters.

    Raises:
        ModelError: as `adapter_targets` and `saved_modules`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilized,
        target_modules=adapter_targets(model, settings.target_modules, frozen),
        modules_to_save=saved_modules(model, settings.modules_to_save),
    )
    # peft asks for gradient checkpointing by a name that some releases of transformers deprecate.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        adapted: Any = get_peft_model(model, config)
    adapted.peft_config[NAME].base_model_name_or_path = base
    for module in adapted.modules():  # on some processors, scoring would turn 4-bit layers into ones without a gradient
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return adapted  # type: ignore[no-any-return]


def save_model(model: Any, folder: str | Path) -> None:
    """Write a model whole; or, where `add_adapters` gave it, its adapters as peft reads them and its configuration."""
    if not is_adapted(model):
        model.save_pretrained(folder)
        return
    from peft import get_peft_model_state_dict

    Path(folder).mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, Path(folder) / WEIGHTS_FILE)
    config = copy.copy(model.peft_config[NAME])
    config.inference_mode = True
    config.save_pretrained(folder)
    save_model_config(model, folder)


def save_model_config(model: Any, folder: str | Path) -> None:
    """Write the configuration of a model, perhaps adapted and in 4 bits, as one in full precision has it."""
    base = without_adapters(model)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    if base.can_generate():
        base.generation_config.save_pretrained(folder)


def merge_saved(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with a folder's adapters added to its weights.

    Args:
        model: the adapters' base, in full precision; it is changed.
        folder: that `save_model` or peft wrote.

    Raises:
        ModelError: they are no LoRA adapters of this model, or not whole.
    """
    from peft import PeftModel

    kind = read_json(folder / SETTINGS_FILE, "an adapter's settings").get("peft_type")
    if kind != "LORA" or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder}: expected LoRA adapters and {WEIGHTS_FILE}; received {kind} in other files")
    with model_errors(folder, "adapter"), warnings.catch_warnings(action="ignore", category=FutureWarning):
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            adapted = PeftModel.from_pretrained(model, folder)
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


@contextlib.contextmanager
def merged_for_a_while(model: nn.Module) -> Iterator[None]:
    """Adapters inside full-precision weights: decoding is then as fast as without any.

    The weights are put back from a copy, in main memory: subtracting would leave a rounding, and a resumed run would
    differ. Layers in 4 bits are left alone.
    """
    layers = _full_precision_layers(model) if is_adapted(model) else []
    originals = [layer.weight.detach().to("cpu", copy=True) for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.weight.data.copy_(original)
            layer.merged_adapters.clear()


def _full_precision_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [layer for layer in layers if layer.weight.is_floating_point()]


def quantization(settings: AdapterConfig, model_type: str) -> BitsAndBytesConfig | None:
    """How QLoRA's base is loaded; None for other methods.

    Args:
        settings: the adapter section.
        model_type: of the model's configuration.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    if settings.kind != "qlora":
        return None
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double_quantization,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=[*unquantized(model_type), *settings.modules_to_save],
    )


def unquantized(model_type: str) -> tuple[str, ...]:
    """Ends of the names of linear layers that are never held in 4 bits."""
    return NEVER_QUANTIZED + (ATTENTION if model_type in USED_BY_WEIGHT else ())


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """What 4-bit layers rebuild their weights in and multiply with."""
    module: Any
    for module in model.modules():
        if getattr(module, "compute_type_is_set", None) is not None:  # of bitsandbytes
            module.compute_dtype, module.compute_type_is_set = dtype, True


def _ending(names: Sequence[str], end: str) -> list[str]:
    """The names that `end` means, as peft understands it."""
    return [name for name in names if name == end or name.endswith(f".{end}")]
