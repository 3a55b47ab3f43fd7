from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCTC,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedConfig,
    SEWConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
)

from myna.config import Config, load_config
from myna.errors import ConfigError, ModelError
from myna.feed.batches import LABEL_PADDING
from myna.models.build import build_recognizer, load_recognizer
from myna.models.folders import find_model
from myna.models.masking import draw_time_mask
from myna.models.tokenizer import TextTokenizer
from myna.models.wav2vec2 import Wav2Vec2Recognizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor
from myna.samples import AudioClip, Batch, RefusalReason, Utterance
from myna.train.run import resumed_config, train
from myna.transcribe.transcriber import Transcriber

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),  # the published ones
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
# As published English models have it: capitals, "|" between words, a blank that is not token 0.
VOCABULARY = {"<s>": 0, "</s>": 1, "|": 2, "A": 3, "B": 4, "C": 5, "<unk>": 6, "<pad>": 7}
OURS = ["", "⁇", "▁", "a", "b", "c"]
ROWS = [7, 6, 2, 3, 4, 5]  # of the published head, in our order
CONFIGS = {
    "wav2vec2": Wav2Vec2Config(**SIZES, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wav2vec2-group": Wav2Vec2Config(**SIZES, feat_extract_norm="group"),
    "hubert": HubertConfig(**SIZES),
    "wavlm": WavLMConfig(**SIZES),
    "unispeech-sat": UniSpeechSatConfig(**SIZES),
    "data2vec-audio": Data2VecAudioConfig(**{**SIZES, "num_conv_pos_embeddings": 2}),
    "unispeech": UniSpeechConfig(**SIZES),
    "sew": SEWConfig(**SIZES, squeeze_factor=2),
}


def publish(folder: Path, config: PreTrainedConfig, vocabulary: dict | None = None) -> Path:
    """A folder as on the hub: fine-tuned when it has a vocabulary, else the bare encoder."""
    torch.manual_seed(0)
    config = type(config)(**{**config.to_dict(), "vocab_size": len(vocabulary or "1234"), "pad_token_id": 7})
    model = AutoModelForCTC.from_config(config)
    if vocabulary:
        model.lm_head.bias.data[:2] = -100.0  # what spells nothing is never heard
    (model if vocabulary else getattr(model, model.base_model_prefix)).save_pretrained(folder)
    if vocabulary:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    layer_norm = getattr(config, "feat_extract_norm", "layer") == "layer"
    Wav2Vec2FeatureExtractor(return_attention_mask=layer_norm).save_pretrained(folder)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return publish(tmp_path / "published", CONFIGS["wav2vec2"], VOCABULARY)


def settings(folder: Path, **model: object) -> Config:
    return Config.model_validate({"model": {"family": "wav2vec2", "pretrained": str(folder), **model}})


def clip(seconds: float, seed: int = 0) -> AudioClip:
    noise = 0.3 + 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))
    return AudioClip(noise.astype(np.float32), 16_000)


def make_batch(processor: Wav2Vec2Processor, seconds: list[float], texts: list[str]) -> Batch:
    features = [processor.features(clip(length, seed)) for seed, length in enumerate(seconds)]
    labels = [torch.tensor(processor.tokenizer.encode(text), dtype=torch.int64) for text in texts]
    return Batch(
        tuple(texts),
        pad_sequence(features, batch_first=True),
        torch.tensor([len(row) for row in features]),
        pad_sequence(labels, batch_first=True, padding_value=LABEL_PADDING),
        torch.tensor([len(row) for row in labels]),
        torch.ones(len(texts)),
    )


def utterance(text: str, seconds: float) -> Utterance:
    return Utterance("", "", text, text, seconds, "train")


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_transformers_own(normalize: bool) -> None:
    processor = Wav2Vec2Processor(TextTokenizer.train(["ab"]), [(10, 5)], normalize=normalize)
    ours = processor.features(clip(0.5))
    theirs = Wav2Vec2FeatureExtractor(do_normalize=normalize)(clip(0.5).samples, sampling_rate=16_000)
    assert ours.shape == (8_000, 1)
    np.testing.assert_allclose(ours[:, 0].numpy(), theirs.input_values[0], atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    recognizer = build_recognizer(settings(publish(tmp_path, CONFIGS[name])), ["ab c"])
    lengths = torch.tensor([1_600, 5_555, 16_000, 16_239])
    expected = recognizer.model._get_feat_extract_output_lengths(lengths)
    assert recognizer.processor.num_frames(lengths).tolist() == expected.tolist() == [4, 17, 49, 50]
    batch = make_batch(recognizer.processor, [0.1], [""])
    assert recognizer.model.eval()(**recognizer.processor.inputs(batch)).logits.shape == (1, 4, 6)
    assert recognizer.processor.frame_seconds == 0.02


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_the_family_learns(name: str, tmp_path: Path) -> None:
    config = settings(publish(tmp_path, CONFIGS[name]), front_end_by_clip=True, mask_time_prob=0.3)
    recognizer = build_recognizer(config, ["ab c"])
    losses = recognizer.losses(recognizer.model.train(), make_batch(recognizer.processor, [1.0, 0.6], ["ab", "c a"]))
    assert losses.shape == (2,)
    assert losses.isfinite().all()
    losses.sum().backward()
    dead = {key for key, value in recognizer.model.named_parameters() if value.requires_grad and value.grad is None}
    assert dead == set()
    frozen = {key for key, value in recognizer.model.named_parameters() if not value.requires_grad}
    assert frozen
    assert all(".feature_extractor." in key for key in frozen)
    assert (load_config([], []).model.mask_time_prob, recognizer.model.config.mask_time_prob) == (0.05, 0.3)
    assert recognizer.model.config.layerdrop == 0


@pytest.mark.parametrize("name", ["wav2vec2", "unispeech-sat"])
def test_without_masks_no_weight_is_left_over(name: str, tmp_path: Path) -> None:
    recognizer = build_recognizer(settings(publish(tmp_path, CONFIGS[name]), mask_time_prob=0.0), ["ab c"])
    recognizer.losses(recognizer.model.train(), make_batch(recognizer.processor, [1.0], ["ab"])).sum().backward()
    learned = [key for key, value in recognizer.model.named_parameters() if value.requires_grad]
    assert not any("masked_spec_embed" in key for key in learned)
    assert all(recognizer.model.get_parameter(key).grad is not None for key in learned)


def test_the_front_end_can_be_trained(tmp_path: Path) -> None:
    folder = publish(tmp_path, CONFIGS["wav2vec2"])
    recognizer = build_recognizer(settings(folder, freeze_front_end=False), ["ab c"])
    recognizer.losses(recognizer.model.train(), make_batch(recognizer.processor, [1.0], ["ab"])).sum().backward()
    assert recognizer.model.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0


def test_losses_are_those_of_each_clip_alone(published: Path) -> None:
    recognizer = load_recognizer(published)
    assert isinstance(recognizer, Wav2Vec2Recognizer)
    recognizer.model.eval()
    seconds, texts = [1.0, 0.5], ["ab c", "b"]
    with torch.no_grad():
        losses = recognizer.losses(recognizer.model, make_batch(recognizer.processor, seconds, texts))
        for row in range(2):
            samples = recognizer.processor.features(clip(seconds[row], row))[:, 0]
            log_probs = recognizer.model(samples[None]).logits[0].double().log_softmax(-1)  # (T, V)
            ids = torch.tensor(recognizer.processor.tokenizer.encode(texts[row]))
            expected = F.ctc_loss(log_probs, ids, [len(log_probs)], [len(ids)], reduction="sum")
            assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_checkpoints_without_layer_norm_are_not_told_what_is_padding(tmp_path: Path) -> None:
    for name, told in (("wav2vec2", True), ("wav2vec2-group", False)):
        folder = publish(tmp_path / name, CONFIGS[name], VOCABULARY)
        assert Wav2Vec2Processor.from_pretrained(folder).attention_mask is told
        (folder / "preprocessor_config.json").unlink()  # then the front end says it
        assert Wav2Vec2Processor.from_pretrained(folder).attention_mask is told
    recognizer = load_recognizer(tmp_path / "wav2vec2-group")
    assert recognizer.processor.inputs(make_batch(recognizer.processor, [0.5], [""])).keys() == {"input_values"}


def test_published_vocabularies_are_read_in_our_order(published: Path) -> None:
    recognizer = load_recognizer(published)
    assert list(recognizer.processor.tokenizer.pieces) == OURS
    assert recognizer.processor.tokenizer.encode("ab c") == [3, 4, 2, 5]
    theirs = AutoModelForCTC.from_pretrained(published).eval()
    samples = recognizer.processor.features(clip(1.0))[:, 0]
    with torch.no_grad():
        found = recognizer.model.eval()(samples[None]).logits
        torch.testing.assert_close(found, theirs(samples[None]).logits[..., ROWS])


def test_both_cases_stay_apart(tmp_path: Path) -> None:
    published = publish(tmp_path, CONFIGS["wav2vec2"], {**VOCABULARY, "a": 8})
    assert list(load_recognizer(published).processor.tokenizer.pieces) == ["", "⁇", "▁", "A", "B", "C", "a"]


@pytest.mark.parametrize("beam_width", [1, 4])
def test_greedy_text_is_transformers_own_and_words_have_times(published: Path, beam_width: int) -> None:
    theirs = AutoModelForCTC.from_pretrained(published).eval()
    samples = load_recognizer(published).processor.features(clip(1.0))[:, 0]
    with torch.no_grad():
        text = Wav2Vec2CTCTokenizer.from_pretrained(published).decode(theirs(samples[None]).logits[0].argmax(-1))
    found = Transcriber(str(published), beam_width=beam_width, device="cpu").transcribe(clip(1.0))
    if beam_width == 1:
        assert found.text == " ".join(text.lower().split())
    assert " ".join(word.text for word in found.words) == found.text
    times = [time for word in found.words for time in (word.start_seconds, word.end_seconds)]
    assert times
    assert times == sorted(times)
    assert times[-1] <= 0.98 + 1e-9  # 49 frames


def test_very_short_clips_are_heard(published: Path) -> None:
    short = AudioClip(np.full(10, 0.1, dtype=np.float32), 16_000)
    assert isinstance(Transcriber(str(published), device="cpu").transcribe(short).text, str)


def test_a_known_vocabulary_is_kept(published: Path) -> None:
    recognizer = build_recognizer(settings(published), ["cab a"])
    assert list(recognizer.processor.tokenizer.pieces) == OURS
    theirs = AutoModelForCTC.from_pretrained(published)
    assert torch.equal(recognizer.model.lm_head.weight, theirs.lm_head.weight[ROWS])
    assert recognizer.model.config.pad_token_id == 0


def test_new_letters_get_new_rows_and_known_ones_keep_theirs(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    recognizer = build_recognizer(settings(published), ["ax b"])
    assert list(recognizer.processor.tokenizer.pieces) == ["", "⁇", "a", "b", "x", "▁"]
    assert "lacks characters" in caplog.text
    theirs = AutoModelForCTC.from_pretrained(published).lm_head
    for row, their_row in ((0, 7), (1, 6), (2, 3), (3, 4), (5, 2)):
        assert torch.equal(recognizer.model.lm_head.weight[row], theirs.weight[their_row])
    assert not (recognizer.model.lm_head.weight[4] == theirs.weight).all(dim=1).any()


def test_saved_and_loaded_it_is_the_same_bit_for_bit(published: Path, tmp_path: Path) -> None:
    first = build_recognizer(settings(published, front_end_by_clip=True), ["ax b"])
    first.save_pretrained(tmp_path / "saved")
    second = load_recognizer(tmp_path / "saved")
    assert second.metadata == first.metadata
    assert second.processor.tokenizer.pieces == first.processor.tokenizer.pieces
    assert vars(second.processor).keys() == vars(first.processor).keys()
    assert second.processor.convolutions == first.processor.convolutions
    state = second.model.state_dict()
    assert state.keys() == first.model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    again = build_recognizer(settings(tmp_path / "saved"), ["ax"])  # fine-tuned further
    assert torch.equal(again.model.lm_head.weight, first.model.lm_head.weight)
    assert again.processor.tokenizer.pieces == first.processor.tokenizer.pieces


def test_refusal_is_exact(published: Path) -> None:
    processor = load_recognizer(published).processor
    # 5 labels and 1 repeat need 6 frames: 400 + 5 * 320 samples.
    assert processor.refusal(utterance("aab c", 2_000 / 16_000)) is None
    found = processor.refusal(utterance("aab c", 1_999 / 16_000))
    assert found is not None
    assert found[0] == RefusalReason.CTC_INFEASIBLE
    assert "at least 6 encoder frames (5 labels + 1 adjacent repeats); received 5" in found[1]


def test_masks_are_spans_of_the_share_asked_for() -> None:
    rng = np.random.default_rng(0)
    lengths = [1_000, 500, 10, 9, 0]
    shares = np.mean([draw_time_mask(lengths, 1_000, 0.05, 10, rng).mean(1) for _ in range(400)], axis=0)
    # Spans that overlap mask a little less; a row of 10 frames is masked whole, 1 time in 20.
    assert shares[:2] == pytest.approx([0.048, 0.024], abs=0.002)
    assert shares[2] == pytest.approx(0.0005, abs=0.0003)
    assert shares[3:].tolist() == [0, 0]
    mask = draw_time_mask([40], 60, 0.25, 10, rng)[0]
    assert 10 <= mask.sum() <= 20
    assert not mask[40:].any()
    full = draw_time_mask([12], 12, 0.99, 10, rng)[0]
    assert full.sum() >= 10


def test_training_draws_from_torch_alone(tmp_path: Path) -> None:
    recognizer = build_recognizer(settings(publish(tmp_path, CONFIGS["wav2vec2"]), mask_time_prob=0.5), ["ab c"])
    batch = make_batch(recognizer.processor, [1.0, 1.0], ["ab", "c"])
    losses = []
    for seed, numpy_seed in ((0, 0), (0, 1), (1, 1)):
        torch.manual_seed(seed)
        np.random.seed(numpy_seed)
        state = np.random.get_state()[1].copy()
        losses.append(recognizer.losses(recognizer.model.train(), batch))
        assert (np.random.get_state()[1] == state).all()
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])
    recognizer.model.eval()
    evaluated = recognizer.losses(recognizer.model, batch)
    assert torch.equal(evaluated, recognizer.losses(recognizer.model, batch))


def test_what_cannot_be_used_is_named(published: Path, tmp_path: Path) -> None:
    bare = publish(tmp_path / "bare", CONFIGS["wav2vec2"])
    with pytest.raises(ModelError, match=r"expected a vocabulary.*Fine-tune it first"):
        load_recognizer(bare)
    Wav2Vec2Model.from_pretrained(published).save_pretrained(published)
    with pytest.raises(ModelError, match=r"2 are missing, such as lm_head\.bias"):
        load_recognizer(published)
    with_adapter = publish(tmp_path / "adapter", Wav2Vec2Config(**SIZES, add_adapter=True), VOCABULARY)
    with pytest.raises(ModelError, match="received one with an adapter"):
        load_recognizer(with_adapter)
    small = publish(tmp_path / "small", CONFIGS["wav2vec2"], VOCABULARY)
    (small / "vocab.json").write_text(json.dumps({**VOCABULARY, "Z": 30}))
    with pytest.raises(ModelError, match="a row for each of 31 tokens; received 8"):
        load_recognizer(small)
    (small / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(ModelError, match="expected a vocabulary"):
        load_recognizer(small)
    for broken in ("{", json.dumps({"eng": VOCABULARY})):  # the latter: one vocabulary a language
        (small / "vocab.json").write_text(broken)
        with pytest.raises(ModelError, match="expected a Wav2Vec2CTCTokenizer folder"):
            load_recognizer(small)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.pretrained="], "expected a folder or hub name"),
        (["model.freeze_front_end=false"], "model.front_end_by_clip needs"),
        (["model.family=whisper"], "model.front_end_by_clip needs"),
        (["augment=[{type: spec_augment}]"], "spec_augment do not work with the features of family wav2vec2"),
    ],
)
def test_conflicts_are_told(overrides: list[str], message: str) -> None:
    given = ["model.front_end_by_clip=true"]
    assert load_config(["wav2vec2-finetune"], given).model.front_end_by_clip is True
    with pytest.raises(ConfigError, match=message):
        load_config(["wav2vec2-finetune"], [*given, *overrides])


def losses_of(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def tiny_run(start: Path, catalog: Path, folder: Path) -> list[str]:
    return [
        *(f"model.pretrained={start}", f"data.db={catalog}", f"training.output_dir={folder}"),
        *("training.learning_rate=3e-3", "training.logging_steps=1", "training.dataloader_num_workers=0"),
        *("training.save_strategy=steps", "training.save_steps=16", "model.mask_time_prob=0.2"),
    ]


@pytest.mark.slow
def test_a_tiny_one_learns_and_resumes_bit_for_bit(tone_catalog: Path, tmp_path: Path) -> None:
    overrides = tiny_run(publish(tmp_path / "start", CONFIGS["wav2vec2"]), tone_catalog, tmp_path / "run")
    overrides += ["training.max_steps=40", "training.save_total_limit=9"]
    run = tmp_path / "run"
    train(load_config(["wav2vec2-finetune"], overrides), console=Console(quiet=True))
    whole = losses_of(run)
    assert len(whole) == 40
    assert np.mean(whole[-5:]) < 0.7 * np.mean(whole[:5])
    weights = (run / "checkpoint-40" / "model.safetensors").read_bytes()
    for checkpoint in run.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-16":
            shutil.rmtree(checkpoint)
    np.random.seed(5)
    train(resumed_config(str(run)), resume=str(run), console=Console(quiet=True))
    assert losses_of(run) == whole
    assert (run / "checkpoint-40" / "model.safetensors").read_bytes() == weights
    assert load_recognizer(run).metadata["family"] == "wav2vec2"
    assert list(find_model(run).glob("*.bin")) == []


@pytest.mark.slow
def test_two_ranks_train_together(tone_catalog: Path, tmp_path: Path) -> None:
    overrides = tiny_run(publish(tmp_path / "start", CONFIGS["wav2vec2"]), tone_catalog, tmp_path / "run")
    overrides += ["training.max_steps=3", "training.gradient_checkpointing=true"]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "myna", "train", "--config", "wav2vec2-finetune", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses_of(tmp_path / "run")) == 3
