from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from method_cases import (
    FAMILIES,
    HUB_CONFIGS,
    RELATIVES,
    TEXTS,
    build_method,
    gradient_of,
    method_config,
    speech_batch,
    write_base,
)
from torch import nn

from myna.config import load_config
from myna.errors import ConfigError, MissingExtraError, ModelError
from myna.models.adapters import merged_for_a_while
from myna.models.build import build_recognizer, load_recognizer, processor_files
from myna.models.folders import find_model, weights_digest
from myna.models.processors import load_processor
from myna.models.recognizer import DecodeOptions, Recognizer
from myna.samples import Batch

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by that name
OPTIONS = DecodeOptions(max_new_tokens=4)
CTC = tuple(family for family in FAMILIES if family != "whisper")


@pytest.fixture(scope="module")
def bases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in (*CTC, *RELATIVES):
        write_base(folder / family, family, folder)
    return folder


@pytest.fixture(scope="module")
def whisper(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("whisper") / "whisper", "whisper", shared)


def losses(recognizer: Recognizer, batch: Batch) -> torch.Tensor:
    recognizer.model.eval()
    with torch.no_grad():
        return recognizer.losses(recognizer.model, batch)


def trained_names(recognizer: Recognizer) -> set[str]:
    return {name for name, parameter in recognizer.model.named_parameters() if parameter.requires_grad}


def check_round_trip(base: Path, kind: str, folder: Path) -> None:
    """Saved small, read by peft, merged by Myna: the same losses."""
    from peft import PeftModel

    recognizer = build_method(base, kind, "lora")
    batch = speech_batch(recognizer)
    before = losses(recognizer, batch)
    untouched = losses(load_recognizer(base), batch)
    assert not torch.allclose(before, untouched)
    recognizer.save_pretrained(folder)
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "myna.json"} <= set(names(folder))
    assert not {"model.safetensors", "README.md"} & set(names(folder))
    loaded = load_recognizer(folder)
    assert not hasattr(loaded.model, "peft_config")
    torch.testing.assert_close(losses(loaded, batch), before, rtol=1e-4, atol=1e-4)
    assert loaded.metadata == recognizer.metadata
    plain = load_recognizer(base)
    plain.model = PeftModel.from_pretrained(plain.model, folder)
    torch.testing.assert_close(losses(plain, batch), before, rtol=1e-4, atol=1e-4)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of WavLM in transformers
@pytest.mark.parametrize("kind", CTC)
def test_adapters_are_saved_apart_and_merged_into_their_base(bases: Path, tmp_path: Path, kind: str) -> None:
    check_round_trip(bases / kind, kind, tmp_path)


def test_whisper_adapters_are_saved_apart_and_merged_into_their_base(whisper: Path, tmp_path: Path) -> None:
    check_round_trip(whisper, "whisper", tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < (whisper / "model.safetensors").stat().st_size / 50


def test_what_is_trained(bases: Path, whisper: Path) -> None:
    attention = {"q_proj", "k_proj", "v_proj", "out_proj"}
    for kind, expected in (("wav2vec2", attention), ("wavlm", {"intermediate_dense", "output_dense"})):
        trained = trained_names(build_method(bases / kind, kind, "lora"))
        head = {name for name in trained if "lm_head" in name}
        assert len(head) == 2
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained - head} == expected
    conformer = trained_names(build_method(bases / "conformer", "conformer", "lora", "adapter.target_modules=all"))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in conformer if "lora_" in name}
    assert adapted == {"qkv", "out", "expand", "contract", "gate", "project"}
    assert not any("subsampling" in name for name in conformer)
    listed = trained_names(build_method(whisper, "whisper", "lora", "adapter.target_modules=[fc1, q_proj]"))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in listed} == {"fc1", "q_proj"}


def test_frozen_layers_get_no_adapters(bases: Path, whisper: Path) -> None:
    decoder = trained_names(build_method(whisper, "whisper", "lora", "model.freeze_encoder=true"))
    assert decoder and all(".decoder." in name for name in decoder)
    upper = build_method(bases / "wav2vec2", "wav2vec2", "lora", "model.freeze_layers=1")
    assert {name.split(".layers.")[1][0] for name in trained_names(upper) if ".layers." in name} == {"1"}


def test_alpha_and_rank_scale_adapters(bases: Path) -> None:
    plain = build_method(bases / "conformer", "conformer", "lora", "adapter.alpha=8")
    stabilized = build_method(
        bases / "conformer", "conformer", "lora", "adapter.alpha=8", "adapter.rank_stabilized=true"
    )
    scales = [r.model.get_submodule("base_model.model.layers.0.attention.qkv").scaling for r in (plain, stabilized)]
    assert scales == [{"default": 2.0}, {"default": 4.0}]  # 8 / 4 and 8 / sqrt(4)


@pytest.mark.parametrize("kind", [*CTC, *RELATIVES])
def test_4_bit_models_keep_whole_what_must_be(bases: Path, kind: str) -> None:
    """Masks are written into the projection's output in place, which 4-bit layers do not survive."""
    model = build_method(bases / kind, kind, "qlora").model.get_base_model()
    whole = {name for name, module in model.named_modules() if type(module) is nn.Linear and "lora" not in name}
    packed = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert packed
    if kind in HUB_CONFIGS:
        masked = "feature_projection" if kind == "sew" else "feature_projection.projection"
        assert f"{model.base_model_prefix}.{masked}" in whole
        assert any(name.startswith("lm_head") for name in whole)
    elif kind == "parakeet":  # whose head is a convolution
        assert not whole
    else:
        assert any(name.startswith("head") for name in whole)


def test_4_bit_adapters_are_merged_into_full_precision(bases: Path, tmp_path: Path) -> None:
    """What they are added to is the base as it is on disk, not as 4 bits remember it."""
    recognizer = build_method(bases / "wav2vec2", "wav2vec2", "qlora")
    recognizer.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = load_recognizer(tmp_path).model
    base = load_recognizer(bases / "wav2vec2").model
    name = "wav2vec2.encoder.layers.0.attention.q_proj"
    layer = recognizer.model.get_submodule(f"base_model.model.{name}")
    expected = base.get_submodule(name).weight + layer.get_delta_weight("default")
    torch.testing.assert_close(loaded.get_submodule(name).weight, expected)
    forward = "wav2vec2.encoder.layers.0.feed_forward.output_dense"  # has no adapter
    assert torch.equal(loaded.get_submodule(forward).weight, base.get_submodule(forward).weight)


def test_scoring_4_bit_layers_leaves_their_gradients(bases: Path) -> None:
    """bitsandbytes repacks weights for scoring on some processors, and then gives no gradient any more."""
    recognizer = build_method(bases / "transformer", "transformer", "qlora")
    batch = speech_batch(recognizer)
    before = {name: value.clone() for name, value in gradient_of(recognizer, batch).items()}
    with torch.no_grad():
        recognizer.decode(batch, OPTIONS)
    after = gradient_of(recognizer, batch)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_merging_for_a_while_changes_nothing_after_it(bases: Path, method: str) -> None:
    recognizer = build_method(bases / "conformer", "conformer", method)
    batch = speech_batch(recognizer)
    state = {name: value.clone() for name, value in recognizer.model.state_dict().items() if "absmax" not in name}
    before = losses(recognizer, batch)
    layer = recognizer.model.get_submodule("base_model.model.layers.0.attention.qkv")
    with pytest.raises(ZeroDivisionError), merged_for_a_while(recognizer.model):
        assert layer.merged == (method == "lora")
        torch.testing.assert_close(losses(recognizer, batch), before)
        raise ZeroDivisionError
    assert not layer.merged
    assert torch.equal(losses(recognizer, batch), before)
    now = recognizer.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in state.items() if isinstance(value, torch.Tensor))


def test_a_new_alphabet_goes_along(bases: Path, tmp_path: Path) -> None:
    """The head of the run has other rows than that of the base."""
    for kind in ("conformer", "wav2vec2"):
        recognizer = build_recognizer(method_config(bases / kind, kind, "lora"), [*TEXTS, "xyz"])
        recognizer.save_pretrained(tmp_path / kind)
        loaded = load_recognizer(tmp_path / kind)
        batch = speech_batch(recognizer)
        assert loaded.processor.tokenizer.pieces == recognizer.processor.tokenizer.pieces
        torch.testing.assert_close(losses(loaded, batch), losses(recognizer, batch), rtol=1e-4, atol=1e-4)


def test_runs_of_adapters_are_found_and_their_processor_travels(bases: Path, tmp_path: Path) -> None:
    recognizer = build_method(bases / "wav2vec2", "wav2vec2", "qlora")
    recognizer.save_pretrained(tmp_path / "checkpoint-3")
    assert find_model(tmp_path).name == "checkpoint-3"
    processor = load_processor(processor_files(recognizer))
    assert processor.tokenizer.pieces == recognizer.processor.tokenizer.pieces


def test_adapters_of_peft_alone_take_the_processor_of_their_base(bases: Path, tmp_path: Path) -> None:
    recognizer = build_method(bases / "conformer", "conformer", "lora")
    batch = speech_batch(recognizer)
    recognizer.model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert not (tmp_path / "config.json").exists()
    torch.testing.assert_close(
        losses(load_recognizer(tmp_path), batch), losses(recognizer, batch), rtol=1e-4, atol=1e-4
    )


@pytest.fixture
def moved(bases: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An adapter and its base, both of this test's own."""
    base = tmp_path / "base"
    shutil.copytree(bases / "conformer", base)
    build_method(base, "conformer", "lora").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base


def test_a_base_that_moved(moved: tuple[Path, Path]) -> None:
    adapter, base = moved
    elsewhere = base.rename(base.with_name("elsewhere"))
    with pytest.raises(ModelError, match=r"base model cannot be found.*myna\.json as base_model"):
        load_recognizer(adapter)
    metadata = json.loads((adapter / "myna.json").read_text())
    assert metadata["base_digest"] == weights_digest(elsewhere)
    (adapter / "myna.json").write_text(json.dumps(metadata | {"base_model": str(elsewhere)}))
    load_recognizer(adapter)  # as the remedy says


def test_a_base_that_is_another_model_by_now(moved: tuple[Path, Path]) -> None:
    adapter, base = moved
    torch.manual_seed(5)
    config = load_config([], ["model.d_model=32", "model.num_encoder_layers=2", "model.num_heads=2", "model.d_ff=64"])
    build_recognizer(config, TEXTS).model.save_pretrained(base)
    with pytest.raises(ModelError, match="another model, with digest"):
        load_recognizer(adapter)


def test_an_adapter_is_no_base(moved: tuple[Path, Path]) -> None:
    adapter, _ = moved
    for method in ("full", "lora"):
        with pytest.raises(ModelError, match="expected a whole model to start from; received an adapter"):
            build_recognizer(method_config(adapter, "conformer", method), TEXTS)
    load_recognizer(adapter).save_pretrained(adapter.with_name("merged"))  # as the remedy says
    build_recognizer(method_config(adapter.with_name("merged"), "conformer", "lora"), TEXTS)


@pytest.mark.parametrize("missing", ["half", "file"])
def test_adapters_that_are_not_whole(moved: tuple[Path, Path], missing: str) -> None:
    from safetensors.torch import load_file, save_file

    path = moved[0] / "adapter_model.safetensors"
    if missing == "half":
        save_file(dict(list(load_file(path).items())[::2]), path)
    else:
        path.unlink()
    with pytest.raises(ModelError, match="adapter"):
        load_recognizer(moved[0])


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("conformer", "adapter.target_modules=[q_proj]", "such as contract, expand, gate, out, project, qkv"),
        ("wavlm", "adapter.target_modules=[q_proj]", "received q_proj"),
        ("conformer", "adapter.modules_to_save=[nothing]", "received nothing"),
        ("conformer", "model.freeze_layers=2", "layers that are not frozen"),
        ("conformer", "model.freeze_layers=3", "at most 2"),
    ],
)
def test_what_cannot_be_adapted(bases: Path, kind: str, override: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_recognizer(method_config(bases / kind, kind, "lora", override), TEXTS)


def test_a_missing_bitsandbytes_is_named(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("myna.models.adapters.find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(MissingExtraError, match=r"myna\[qlora\]"):
        build_recognizer(method_config(bases / "conformer", "conformer", "qlora"), TEXTS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.kind=lora"], "set model.pretrained"),
        (["model.freeze_layers=1"], "set model.pretrained"),
        (["model.family=wav2vec2", "model.pretrained=x/y", "model.freeze_front_end=false"], "freeze_front_end=true"),
        (["model.pretrained=x/y", "model.freeze_encoder=true"], "leaves no layer to adapt"),
        (["model.pretrained=x/y", "training.torch_compile=true"], "compiles anew"),
        (["model.pretrained=x/y", "training.learning_rates.decoder=1e-3"], "decoder works with whisper"),
        (["model.family=whisper", "model.pretrained=x/y", "training.learning_rates.head=1e-3"], "from its decoder"),
        (
            [
                "model.family=whisper",
                "model.pretrained=x/y",
                "model.freeze_encoder=true",
                "training.learning_rates.encoder=1",
            ],
            "nothing there to learn",
        ),
        (["model.pretrained=x/y", "training.learning_rates.front=1e-3"], "did you mean|no such key"),
    ],
)
def test_conflicts_are_named_before_anything_is_loaded(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], ["adapter.kind=lora", *overrides] if "adapter" not in overrides[0] else overrides)
