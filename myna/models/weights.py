"""Weights from a folder, as transformers stores them, without its chatter."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from myna.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel


def load_weights(
    model_class: type[PreTrainedModel],
    folder: str | Path,
    *,
    may_miss: Sequence[str] = (),
    config: PretrainedConfig | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> Any:
    """A model in float32, whatever its weights are stored in; from safetensors and this folder alone.

    Args:
        model_class: of the model, or one of the `AutoModel` classes.
        folder: holds config.json and model.safetensors.
        may_miss: ends of the names of weights that may be missing; they start at random.
        config: in place of the folder's config.json.
        quantization: of the linear layers that it does not leave out; the model is then on this rank's own device.

    Raises:
        ModelError: the folder does not hold such a model whole.
    """
    with model_errors(folder, model_class.__name__), quiet():
        model, loading = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            config=config,
            **({"quantization_config": quantization, "device_map": {"": _own_device()}} if quantization else {}),
        )
    missing = sorted(name for name in loading["missing_keys"] if not name.endswith(tuple(may_miss)))
    if missing:
        raise ModelError(
            f"{folder}: expected all weights of a {model_class.__name__}; {len(missing)} are missing, such as "
            f"{missing[0]}",
            "Pass a folder whose config.json and model.safetensors belong together.",
        )
    return model


def _own_device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def model_errors(folder: str | Path, kind: str) -> Iterator[None]:
    """Whatever transformers raises about a folder becomes a ModelError."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder}: expected a {kind} folder; received {reason}",
            "Pass a folder with config.json, tokenizer.json and model.safetensors.",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing below an error: its notes are about options that Myna sets itself."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
