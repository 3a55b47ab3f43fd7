from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import DIFFERENT, HUB_CONFIGS, HUB_SIZES, build_method, gradient_of, speech_batch, write_base
from transformers import AutoModelForCTC

from myna.errors import ModelError
from myna.models.parts import freeze_part, frozen_names, parts_of
from myna.models.recognizer import Recognizer

HUB = tuple(HUB_CONFIGS)


def hub_model(kind: str, **changes: object) -> torch.nn.Module:
    return AutoModelForCTC.from_config(HUB_CONFIGS[kind](**HUB_SIZES | DIFFERENT.get(kind, {}) | changes))


@pytest.mark.parametrize("kind", HUB)
def test_parts_are_there_and_cover_everything(kind: str) -> None:
    model = hub_model(kind)
    parts = parts_of(model)
    assert {parts.part_of(name) for name, _ in model.named_parameters()} == {"encoder", "head"}
    assert f"{model.base_model_prefix}.masked_spec_embed" in parts.before_layers
    for name in parts.before_layers:
        freeze_part(model, name)


def test_the_encoders_own_norm_is_below_its_layers_or_above() -> None:
    below = frozen_names(hub_model("wav2vec2", do_stable_layer_norm=False), layers=1)
    above = frozen_names(hub_model("wav2vec2"), layers=1)
    assert set(below) - set(above) == {"wav2vec2.encoder.layer_norm"}


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "transformer"])
def test_no_graph_is_built_through_frozen_layers(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / kind, kind, tmp_path)
    for method, head_only in (("freeze_layers", False), ("freeze_encoder", True)):
        recognizer = build_method(base, kind, method)
        gradient = gradient_of(recognizer, speech_batch(recognizer))
        assert all(value is not None for value in gradient.values())
        layers = {name.split("layers.")[1][0] for name in gradient if "layers." in name}
        assert layers == (set() if head_only else {"1"})
        assert any("head" in name for name in gradient)
        assert not lowest_output(recognizer).requires_grad


def lowest_output(recognizer: Recognizer) -> torch.Tensor:
    """What the first encoder layer gives."""
    outputs: list[torch.Tensor] = []
    layer = recognizer.model.get_submodule(f"{parts_of(recognizer.model).layers}.0")
    handle = layer.register_forward_hook(
        lambda *call: outputs.append(call[2] if torch.is_tensor(call[2]) else call[2][0])
    )
    recognizer.losses(recognizer.model, speech_batch(recognizer))
    handle.remove()
    return outputs[0]


def test_nothing_is_frozen_unasked() -> None:
    assert frozen_names(hub_model("wav2vec2")) == []
    with pytest.raises(ModelError, match="at most 2"):
        frozen_names(hub_model("wav2vec2"), layers=3)


def test_what_is_not_there_cannot_be_frozen() -> None:
    with pytest.raises(ModelError, match="nothing"):
        freeze_part(hub_model("wav2vec2"), "nothing")
