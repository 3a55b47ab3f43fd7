from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import DIFFERENT, HUB_CONFIGS, HUB_SIZES, build_method, gradient_of, speech_batch, write_base
from transformers import AutoModelForCTC

from myna.errors import ModelError
from myna.models.build import load_recognizer
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.parts import freeze_part, frozen_names, keep_layers, parts_of
from myna.models.recognizer import DecodeOptions, Recognizer

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


def layer_names(model: torch.nn.Module, stack: str) -> set[str]:
    return {name.removeprefix(f"{stack}.").split(".")[0] for name in model.state_dict() if name.startswith(f"{stack}.")}


@pytest.mark.parametrize(("count", "kept"), [(1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, range(7))])
@pytest.mark.parametrize("kind", ["wavlm", "conformer"])
def test_layers_that_are_kept_are_copies(tmp_path: Path, kind: str, count: int, kept: list[int]) -> None:
    if kind == "conformer":
        config = ConformerConfig(d_model=16, num_encoder_layers=7, num_heads=2, d_ff=16, conv_kernel_size=3)
        whole, cut = (ConformerForCTC(config) for _ in range(2))
    else:
        whole, cut = (hub_model(kind, num_hidden_layers=7) for _ in range(2))
    cut.load_state_dict(whole.state_dict())
    keep_layers(cut, encoder=count)
    stack = parts_of(whole).layers
    left, given = cut.state_dict(), whole.state_dict()
    assert layer_names(cut, stack) == {str(index) for index in range(count)}
    for name, value in left.items():
        place, _, rest = name.removeprefix(f"{stack}.").partition(".")
        source = f"{stack}.{kept[int(place)]}.{rest}" if name.startswith(f"{stack}.") else name
        assert torch.equal(value, given[source]), name
    rebuilt = type(cut)(cut.config)
    assert rebuilt.state_dict().keys() == left.keys()


@pytest.mark.parametrize("kind", ["whisper", "conformer", "transformer", "wav2vec2", "parakeet"])
def test_a_cut_model_is_saved_as_an_ordinary_one(tmp_path: Path, shared: Path, kind: str) -> None:
    base = write_base(tmp_path / kind, kind, shared)
    decoder = ["model.keep_decoder_layers=1"] if kind == "whisper" else []
    cut = build_method(base, kind, "full", "model.keep_encoder_layers=1", *decoder)
    cut.save_pretrained(tmp_path / "cut")
    loaded = load_recognizer(tmp_path / "cut")
    cut.model.eval()
    batch = speech_batch(cut)
    with torch.no_grad():
        assert torch.equal(loaded.losses(loaded.model, batch), cut.losses(cut.model, batch))
        whole = load_recognizer(base)
        assert not torch.equal(loaded.losses(loaded.model, batch), whole.losses(whole.model, batch))
    heard = loaded.decode(batch, DecodeOptions(timestamps=True, max_new_tokens=5, language="es"))
    assert len(heard) == len(batch.weights)


def test_heads_that_follow_the_speech_move_with_their_layers(shared: Path) -> None:
    whisper = load_recognizer(shared / "models" / "whisper-tiny")
    whisper.model.generation_config.alignment_heads = [[1, 0], [3, 2], [3, 5]]
    keep_layers(whisper.model, decoder=2)
    assert whisper.model.generation_config.alignment_heads == [[1, 2], [1, 5]]
    keep_layers(whisper.model, decoder=1)
    assert whisper.model.generation_config.alignment_heads is None
    assert whisper.model.model.decoder.layers[0].self_attn.layer_idx == 0


def test_more_layers_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ModelError, match=r"keep_encoder_layers of at most 2.*received 3"):
        keep_layers(hub_model("hubert"), encoder=3)
