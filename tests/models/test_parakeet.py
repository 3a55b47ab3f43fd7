from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from method_cases import PARAKEET_PIECES, build_method, speech_batch, write_parakeet
from rich.console import Console
from torch.nn.utils.rnn import pad_sequence
from transformers import ParakeetForCTC

from myna.config import Config, load_config
from myna.errors import ConfigError, ModelError
from myna.feed.batches import LABEL_PADDING
from myna.models.build import build_recognizer, load_recognizer, processor_files
from myna.models.parakeet import LearnedBatchNorm
from myna.models.parakeet_processor import ParakeetProcessor, read_tokenizer
from myna.models.processors import load_processor
from myna.models.recognizer import DecodeOptions, Recognizer
from myna.plan.profiles.model import ModelProfile
from myna.samples import AudioClip, Batch, RefusalReason, Utterance
from myna.train.run import train

BLANK_ROW = len(PARAKEET_PIECES)
ROWS = [BLANK_ROW, 0, 1, 2, 3, 4, 5, 6]  # of the published head, in our order
OURS = ["", "⁇", *PARAKEET_PIECES[1:]]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "published").mkdir()
    return write_parakeet(tmp_path / "published")


def settings(folder: Path | str = "", **model: object) -> Config:
    return Config.model_validate({"model": {"family": "parakeet", "pretrained": str(folder), **model}})


def noise(seconds: float, seed: int = 0) -> AudioClip:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))
    return AudioClip(samples.astype(np.float32), 16_000)


def batch_of(recognizer: Recognizer, seconds: list[float], texts: list[str]) -> Batch:
    features = [recognizer.processor.features(noise(length, seed)) for seed, length in enumerate(seconds)]
    labels = [torch.tensor(recognizer.processor.labels(spoken(text, 1.0))) for text in texts]
    return Batch(
        tuple(texts),
        pad_sequence(features, batch_first=True),
        torch.tensor([len(row) for row in features]),
        pad_sequence(labels, batch_first=True, padding_value=LABEL_PADDING),
        torch.tensor([len(row) for row in labels]),
        torch.ones(len(texts)),
    )


def spoken(text: str, seconds: float) -> Utterance:
    return Utterance("", "", text, text, seconds, "train")


def test_the_checkpoints_own_pieces_in_our_order(published: Path) -> None:
    tokenizer, rows = read_tokenizer(published)
    assert list(tokenizer.pieces) == OURS
    assert rows == ROWS
    assert tokenizer.tokens(tokenizer.encode("cab ab")) == ["▁c", "ab", "▁", "ab"]
    assert tokenizer.decode(tokenizer.encode("cab ab")) == "cab ab"


def test_a_published_checkpoint_speaks_as_it_was_trained(published: Path) -> None:
    theirs = ParakeetForCTC.from_pretrained(published).eval()
    recognizer = load_recognizer(published)
    batch = batch_of(recognizer, [1.0, 1.7], ["ab", "c"])
    mask = torch.arange(batch.features.shape[1]) < batch.feature_lengths[:, None]
    with torch.no_grad():
        expected = theirs(batch.features, attention_mask=mask.long()).logits[..., ROWS]
        found = recognizer.model.eval()(batch.features, attention_mask=mask.long()).logits
    torch.testing.assert_close(found, expected)
    frames = recognizer.processor.num_frames(batch.feature_lengths)
    assert frames.tolist() == theirs._get_subsampling_output_length(batch.feature_lengths).tolist() == [13, 22]
    assert recognizer.processor.frame_seconds == 0.08


def test_our_loss_is_theirs_with_labels_padded_by_the_blank(published: Path) -> None:
    theirs = ParakeetForCTC.from_pretrained(published).eval()
    theirs.config.ctc_loss_reduction = "sum"
    recognizer = load_recognizer(published)
    recognizer.model.eval()
    batch = batch_of(recognizer, [1.0, 1.7], ["cab ab", "ba"])
    mask = torch.arange(batch.features.shape[1]) < batch.feature_lengths[:, None]
    labels = torch.where(batch.labels < 0, BLANK_ROW, torch.tensor(ROWS)[batch.labels.clamp(min=0)])
    loss = theirs(batch.features, attention_mask=mask.long(), labels=labels).loss
    torch.testing.assert_close(recognizer.losses(recognizer.model, batch).sum(), loss)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.003, 2.0])
def test_frames_are_known_beforehand(factor: int, seconds: float) -> None:
    config = settings(d_model=16, num_encoder_layers=1, num_heads=2, d_ff=16, subsampling_factor=factor)
    recognizer = build_recognizer(config, ["abc"])
    features = recognizer.processor.features(noise(seconds))
    logits = recognizer.model(features[None], attention_mask=torch.ones(1, len(features))).logits
    assert recognizer.processor.num_frames(torch.tensor(len(features))) == logits.shape[1]
    room = logits.shape[1]
    assert recognizer.processor.refusal(spoken(("ab" * room)[:room], seconds)) is None
    reason, detail = recognizer.processor.refusal(spoken(("ab" * room)[: room + 1], seconds))
    assert reason is RefusalReason.CTC_INFEASIBLE
    assert f"received {room} " in detail


def test_a_clip_is_heard_the_same_beside_a_longer_one(published: Path) -> None:
    recognizer = load_recognizer(published)
    recognizer.model.train()  # the statistics of a batch play no part
    together = recognizer.losses(recognizer.model, batch_of(recognizer, [1.0, 2.3], ["ab", "c"]))
    alone = recognizer.losses(recognizer.model, batch_of(recognizer, [1.0], ["ab"]))
    torch.testing.assert_close(together[:1], alone)


def test_statistics_of_a_checkpoint_stay_and_those_of_a_fresh_model_are_learned(published: Path) -> None:
    tuned = build_recognizer(settings(published), ["abc"])
    fresh = build_recognizer(settings(d_model=16, num_encoder_layers=1, num_heads=2, d_ff=16), ["abc"])
    for recognizer, is_learned in ((tuned, False), (fresh, True)):
        recognizer.model.train()
        norms = [module for module in recognizer.model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        before = [norm.running_var.clone() for norm in norms]
        recognizer.losses(recognizer.model, batch_of(recognizer, [1.0, 1.0], ["ab", "a"])).sum().backward()
        for norm, value in zip(norms, before, strict=True):
            assert isinstance(norm, LearnedBatchNorm) is not is_learned
            assert norm.weight.grad.any()
            assert torch.equal(norm.running_var, value) is not is_learned


def test_a_new_vocabulary_keeps_the_rows_that_both_have(published: Path) -> None:
    theirs = ParakeetForCTC.from_pretrained(published)
    recognizer = build_recognizer(settings(published), ["abc", "bad"])
    assert list(recognizer.processor.tokenizer.pieces) == ["", "⁇", "a", "b", "c", "d", "▁"]
    head = recognizer.model.ctc_head
    for row, theirs_row in ((0, BLANK_ROW), (1, 0), (2, 4), (3, 5), (4, 6), (6, 3)):
        assert torch.equal(head.weight[row], theirs.ctc_head.weight[theirs_row])
        assert head.bias[row] == theirs.ctc_head.bias[theirs_row]
    assert build_recognizer(settings(published), ["cab ab"]).processor.tokenizer.pieces == tuple(OURS)


def test_saved_and_loaded(published: Path, tmp_path: Path) -> None:
    recognizer = build_recognizer(settings(published), ["cab ab"])
    recognizer.save_pretrained(tmp_path / "saved")
    loaded = load_recognizer(tmp_path / "saved")
    assert loaded.processor.tokenizer.pieces == tuple(OURS)
    assert loaded.processor.log_mel == recognizer.processor.log_mel
    for name, value in recognizer.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert ParakeetForCTC.from_pretrained(tmp_path / "saved").config.pad_token_id == 0  # for whoever has no Myna
    sent = load_processor(processor_files(recognizer))
    assert isinstance(sent, ParakeetProcessor)
    assert sent.labels(spoken("cab", 1.0)) == recognizer.processor.labels(spoken("cab", 1.0))


def test_no_layer_is_dropped(published: Path) -> None:
    assert build_recognizer(settings(published), ["ab"]).model.encoder.layerdrop == 0
    assert build_recognizer(settings(), ["ab"]).model.encoder.layerdrop == 0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"vocab_size": 9}, "ParakeetForCTC"),
        ("config.json", {"encoder_config": {}}, "subsampling_factor"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "expected a tokenizer"),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": {}, "unk_token": ""}}, "Fine-tune it first"),
        ("preprocessor_config.json", {"hop_length": "wide"}, "expected a Parakeet folder"),
    ],
)
def test_broken_folders_are_named(published: Path, file: str, change: dict, message: str) -> None:
    path = published / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_recognizer(published)


def test_chunks_are_refused() -> None:
    with pytest.raises(ConfigError, match="whole clip"):
        load_config([], ["model.family=parakeet", "model.chunk_frames=4"])


def test_a_plan_knows_the_model(published: Path) -> None:
    recognizer = build_method(published, "parakeet", "full")
    profile = ModelProfile.of(recognizer.model)
    assert profile.family == "parakeet"
    assert profile.rebuild_problem == ""
    assert profile.parameters == sum(parameter.numel() for parameter in recognizer.model.parameters())
    from_config = ModelProfile.from_config(settings(d_model=16, num_encoder_layers=3, num_heads=2, d_ff=16))
    assert (from_config.family, from_config.layers, from_config.hidden_size) == ("parakeet", 3, 16)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["scratch", "checkpoint"])
def test_a_run_learns(published: Path, tone_catalog: Path, tmp_path: Path, start: str) -> None:
    sizes = ["d_model=32", "num_encoder_layers=1", "num_heads=2", "d_ff=64", "conv_kernel_size=5", "dropout=0"]
    chosen = ["subsampling_factor=4", *sizes] if start == "scratch" else [f"pretrained={published}"]
    config = load_config(
        [],
        [
            "model.family=parakeet",
            *(f"model.{value}" for value in chosen),
            f"data.db={tone_catalog}",
            f"training.output_dir={tmp_path / 'run'}",
            *("training.num_train_epochs=6", "training.learning_rate=3e-3", "training.effective_batch_size=8"),
            *("training.logging_steps=1", "training.dataloader_num_workers=0"),
        ],
    )
    train(config, console=Console(quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["model"]["family"] == "parakeet"
    loaded = load_recognizer(tmp_path / "run")
    batch = speech_batch(loaded)
    assert len(loaded.decode(batch, DecodeOptions(timestamps=True))) == 4
