from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from myna.config import Config
from myna.errors import ModelError
from myna.models.build import build_recognizer, load_recognizer, processor_files
from myna.models.ctc import CTCRecognizer
from myna.models.folders import find_model
from myna.models.processors import feasibility, load_processor
from myna.models.whisper import WhisperRecognizer
from myna.samples import AudioClip, RefusalReason, Utterance

TEXTS = ["abc", "cab ab"]
SMALL = {"d_model": 16, "num_encoder_layers": 1, "num_heads": 2, "d_ff": 32, "conv_kernel_size": 5, "chunk_frames": 4}


def make_config(family: str = "conformer", data_language: str = "", **model: object) -> Config:
    return Config.model_validate(
        {"model": {"family": family, **SMALL, **model}, "features": {"n_mels": 20}, "data": {"language": data_language}}
    )


def features() -> torch.Tensor:
    return torch.randn(1, 40, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["conformer", "transformer"])
def test_sizes_come_from_the_configuration(family: str) -> None:
    recognizer = build_recognizer(make_config(family, left_chunks=2, dropout=0.3, data_language="tr"), TEXTS)
    assert isinstance(recognizer, CTCRecognizer)
    config = recognizer.model.config
    assert config.model_type == f"myna-{family}"
    assert (config.vocab_size, config.n_mels, config.d_model, config.chunk_frames) == (6, 20, 16, 4)
    assert (config.left_chunks, config.dropout) == (2, 0.3)
    assert recognizer.metadata == {"family": family, "language": "tr", "text_rules": "1"}


@pytest.mark.parametrize("family", ["conformer", "transformer"])
def test_runs_and_checkpoints_load(family: str, tmp_path: Path) -> None:
    recognizer = build_recognizer(make_config(family), TEXTS)
    recognizer.metadata["dataset_version"] = "abc"
    for step in (5, 10):
        recognizer.save_pretrained(tmp_path / f"checkpoint-{step}")
    assert find_model(tmp_path).name == "checkpoint-10"
    (tmp_path / "best").symlink_to("checkpoint-5")
    assert find_model(tmp_path).name == "checkpoint-5"
    loaded = load_recognizer(tmp_path)
    assert isinstance(loaded, CTCRecognizer)
    assert loaded.metadata == recognizer.metadata
    assert loaded.processor.tokenizer.pieces == ("", "⁇", "a", "b", "c", "▁")
    lengths = torch.tensor([40])
    recognizer.model.eval()
    assert torch.equal(loaded.model.eval()(features(), lengths).logits, recognizer.model(features(), lengths).logits)


def test_pretrained_with_known_characters_is_taken_whole(tmp_path: Path) -> None:
    first = build_recognizer(make_config(), TEXTS)
    first.save_pretrained(tmp_path)
    second = build_recognizer(make_config(pretrained=str(tmp_path), d_model=64), ["bac"])
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())


def test_new_characters_get_new_rows_of_the_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build_recognizer(make_config(), TEXTS)
    first.save_pretrained(tmp_path)
    second = build_recognizer(make_config(pretrained=str(tmp_path)), ["axb y"])
    assert isinstance(second, CTCRecognizer)
    assert second.processor.tokenizer.pieces == ("", "⁇", "a", "b", "x", "y", "▁")
    assert second.model.config.vocab_size == 7
    assert "5 rows of the head are kept" in caplog.text
    for old_row, new_row in ((0, 0), (1, 1), (2, 2), (3, 3), (5, 6)):
        assert torch.equal(first.model.head.weight[old_row], second.model.head.weight[new_row])
    assert torch.equal(first.model.layers[0].conv.gate.weight, second.model.layers[0].conv.gate.weight)
    second.save_pretrained(tmp_path / "second")
    assert load_recognizer(tmp_path / "second").model.head.out_features == 7


def test_another_family_is_refused(tmp_path: Path) -> None:
    build_recognizer(make_config("transformer"), TEXTS).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"expected a model of family conformer; received transformer"):
        build_recognizer(make_config(pretrained=str(tmp_path)), TEXTS)


def test_feasibility_of_a_ctc_model() -> None:
    refuse = feasibility(make_config())(TEXTS)
    utterance = Utterance("", "", "", "aab", 0.10, "train")
    found = refuse(utterance)
    assert found is not None
    assert found[0] == RefusalReason.CTC_INFEASIBLE
    assert refuse(Utterance("", "", "", "aab", 0.13, "train")) is None  # 4 encoder frames, 3 labels, 1 repeat


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json in it"),
        ("{", "expected a model's configuration"),
        ("[]", "expected a model's configuration"),
        (json.dumps({"model_type": "bert"}), "expected model_type myna-conformer"),
        (json.dumps({"model_type": "myna-conformer"}), "preprocessor_config.json"),
    ],
)
def test_broken_folders_name_what_is_wrong(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_recognizer(tmp_path)
    assert caught.value.remedy


def test_weights_must_be_there_and_whole(tmp_path: Path) -> None:
    recognizer = build_recognizer(make_config(), TEXTS)
    recognizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = recognizer.model.state_dict()
    lacking = {name: value for name, value in state.items() if name != "head.bias"}
    save_file(lacking, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing, such as head\.bias"):
        load_recognizer(tmp_path)
    save_file({**state, "head.bias": torch.zeros(9)}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="expected a ConformerForCTC folder"):
        load_recognizer(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="expected a ConformerForCTC folder"):
        load_recognizer(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="expected a ConformerForCTC folder"):
        load_recognizer(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "../up"])
def test_what_cannot_be_a_hub_name_never_reaches_the_network(name: str) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load_recognizer(name)


def test_whisper_from_a_folder(shared: Path) -> None:
    folder = shared / "models" / "whisper-tiny"
    loaded = load_recognizer(folder)
    assert isinstance(loaded, WhisperRecognizer)
    assert loaded.model.dtype == torch.float32
    config = make_config("whisper", pretrained=str(folder), language="kk", freeze_encoder=True)
    built = build_recognizer(config, [])
    assert built.metadata["language"] == "kk"
    assert not any(value.requires_grad for value in built.model.get_encoder().parameters())
    refuse = feasibility(config)([])
    assert refuse(Utterance("", "", "салам", "салам", 1.0, "train", language="ky")) is None
    with pytest.raises(ModelError, match="for whisper; received nothing"):
        build_recognizer(make_config("whisper"), [])


def test_a_processor_is_made_again_from_its_files(shared: Path) -> None:
    heard = Utterance("id", "/a.wav", "Cab ab", "cab ab", 1.0, "train", language="es")
    clip = AudioClip(np.random.default_rng(0).standard_normal(16_000).astype(np.float32), 16_000)
    whisper = {"pretrained": str(shared / "models" / "whisper-tiny")}
    for config in (make_config(), Config.model_validate({"model": {"family": "whisper", **whisper}})):
        recognizer = build_recognizer(config, TEXTS)
        again = load_processor(processor_files(recognizer))
        assert again.labels(heard) == recognizer.processor.labels(heard)
        assert torch.equal(again.features(clip), recognizer.processor.features(clip))
        assert again.refusal(heard) == recognizer.processor.refusal(heard)
