"""Whisper in short context: equal to the full one wherever the two hear the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from method_cases import METHODS, SHORT_CONTEXT, build_method, gradient_of, speech_batch, write_base
from torch.nn import functional
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from myna.audio.augment.chain import Chain
from myna.audio.augment.spec_augment import SpecAugment
from myna.feed.batches import make_batch
from myna.feed.payload import from_bytes, to_bytes
from myna.models.audio_context import AudioContext
from myna.models.build import load_recognizer, processor_files
from myna.models.processors import load_processor
from myna.models.recognizer import DecodeOptions
from myna.models.whisper import WhisperRecognizer
from myna.models.whisper_encoder import SILENCE, STANDS_FOR, all_positions, continued_with_silence, weights_of
from myna.models.whisper_processor import WhisperProcessor
from myna.samples import AudioClip, Utterance

LEARNED = {"audio_context_margin_seconds": "3", "audio_context_longest_seconds": "9.5"}


@pytest.fixture(scope="module")
def tiny(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights."""
    return write_base(tmp_path_factory.mktemp("tiny") / "whisper", "whisper", shared)


@pytest.fixture(scope="module")
def recognizer(tiny: Path) -> WhisperRecognizer:
    return WhisperRecognizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def spoken(shared: Path) -> list[Utterance]:
    corpus = shared / "corpora" / "common_voice_es"
    with (corpus / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["duration"]))[::33]
    return [
        Utterance(
            str(i), str(corpus / row["file_path"]), row["transcript"], "", float(row["duration"]), "train", "", "es"
        )
        for i, row in enumerate(rows)
    ]


def clip(seconds: float) -> AudioClip:
    return AudioClip(np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32), 16_000)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 5.013, 26.9, 28.0, 30.0])
def test_short_features_are_the_head_of_the_full_ones(recognizer: WhisperRecognizer, seconds: float) -> None:
    """And all that follows in the full ones is the last short frame again."""
    full = recognizer.processor.features(clip(seconds))
    short = recognizer.processor.with_context(AudioContext(3.0)).features(clip(seconds))
    assert len(short) == round(100 * recognizer.processor.with_context(AudioContext(3.0)).padded_seconds(seconds))
    assert len(short) == min(3000, 2 * int(np.ceil(50 * (seconds + 3) - 1e-6)))
    torch.testing.assert_close(short, full[: len(short)], atol=1e-6, rtol=0)
    assert (full[len(short) :] == short[-1]).all()
    assert recognizer.processor.with_context(None).padded_seconds(seconds) == 30


def test_rows_go_on_with_their_own_silence() -> None:
    features = torch.tensor([[[1.0, 2.0], [-0.5, -0.5], [0.0, 0.0]], [[0.0, 3.0], [5.0, 4.0], [-0.7, -0.7]]])
    longer = continued_with_silence(features, torch.tensor([2, 3]), 5)
    assert longer[0].tolist() == [[1, 2], *[[-0.5, -0.5]] * 4]
    torch.testing.assert_close(longer[1], torch.cat([features[1], features[1, 2:].expand(2, 2)]))
    masked = features.clone()
    masked[0, 1] = 0.0  # a mask over the last frames: the least of a row is still silence
    masked[0, 0] = -0.5
    assert continued_with_silence(masked, torch.tensor([2, 3]), 4)[0, 2:].tolist() == [[-0.5, -0.5]] * 2


def test_a_recogniser_in_full_context_hears_short_features_as_full_ones(
    recognizer: WhisperRecognizer, spoken: list[Utterance]
) -> None:
    full = make_batch(spoken, recognizer.processor)
    short = make_batch(spoken, recognizer.processor.with_context(AudioContext(0.5)))
    assert short.features.shape[1] < 1500 < full.features.shape[1] == 3000
    with torch.no_grad():
        assert torch.equal(recognizer.losses(recognizer.model, short), recognizer.losses(recognizer.model, full))
    options = DecodeOptions(timestamps=True, max_new_tokens=4)
    assert recognizer.decode(short, options) == recognizer.decode(full, options)


def test_clips_that_fill_the_window_lose_nothing(recognizer: WhisperRecognizer) -> None:
    short = WhisperRecognizer(recognizer.processor.with_context(AudioContext(3.0)), recognizer.model)
    batch = speech_batch(recognizer, rows=2, seconds=28.0)
    with torch.no_grad():
        assert torch.equal(short.losses(short.model, batch), recognizer.losses(recognizer.model, batch))


def test_each_state_of_silence_stands_for_many(tiny: Path) -> None:
    """As if each were there as often as it counts; it knows nothing of the clip before it."""
    stock = WhisperForConditionalGeneration.from_pretrained(tiny).eval()
    clips = WhisperRecognizer.from_pretrained(tiny).model.eval()
    encoder, features = stock.get_encoder(), torch.randn(2, 80, 400)
    heard = 204  # positions: 200, and 4 to the next multiple of 12
    with torch.no_grad():
        longer = torch.cat([features, features[:, :, -1:].expand(-1, -1, 8)], dim=2)
        states = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(longer)))).transpose(1, 2)
        states = states + encoder.embed_positions.weight[:heard]
        quiet = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(torch.full((1, 80, 300), SILENCE)))))
        silence = quiet[:, :, 75][:, None] + encoder.embed_positions.weight[1::3]
        for layer in encoder.layers:
            often = silence[:, 2::4][:, heard // 12 :].repeat_interleave(12, dim=1).expand(2, -1, -1)
            norm = layer.self_attn_layer_norm
            states = states + layer.self_attn(norm(states), key_value_states=norm(torch.cat([states, often], 1)))[0]
            states = states + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(states))))
            silence = layer(silence, None)
        often = silence[:, 2::4][:, heard // 12 :].repeat_interleave(12, dim=1).expand(2, -1, -1)
        whole = encoder.layer_norm(torch.cat([states, often], dim=1))
        assert whole.shape == (2, 1500, encoder.config.d_model)
        found = clips.get_encoder()(features).last_hidden_state
        assert found.shape[1] == all_positions(heard, 1500) == heard + (1500 - heard) // 12
        torch.testing.assert_close(found[:, :heard], whole[:, :heard], rtol=1e-4, atol=1e-5)
        words = {"decoder_input_ids": torch.tensor([[1, 2, 3]] * 2), "use_cache": False}
        expected = stock(encoder_outputs=BaseModelOutput(whole), **words).logits
        torch.testing.assert_close(clips(input_features=features, **words).logits, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3000"):
        clips.get_encoder()(torch.randn(1, 80, 3002))


@pytest.mark.parametrize("source_positions", [1500, 1499, 100])
def test_the_number_of_positions_tells_what_is_silence(source_positions: int) -> None:
    for heard in range(STANDS_FOR, source_positions, STANDS_FOR):
        positions = all_positions(heard, source_positions)
        weights = weights_of(positions, source_positions, torch.zeros(()))
        assert weights is not None and weights.shape == (1, 1, 1, positions)
        assert (weights == 0).sum() == heard
    assert weights_of(source_positions, source_positions, torch.zeros(())) is None


def test_half_precision_leaves_no_weight_without_its_gradient(tiny: Path) -> None:
    """The silence is made without gradients, by the same weights."""
    recognizer = build_method(tiny, "whisper", "full", *SHORT_CONTEXT)
    batch = speech_batch(recognizer)
    plain = {name: value.clone() for name, value in gradient_of(recognizer, batch).items()}
    recognizer.model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        losses = recognizer.losses(recognizer.model, batch)
    (losses.sum() / recognizer.items(batch).sum()).backward()
    for name, parameter in recognizer.model.named_parameters():
        if parameter.requires_grad and not name.endswith("k_proj.bias"):
            assert parameter.grad is not None and parameter.grad.any(), name
            assert functional.cosine_similarity(parameter.grad.flatten(), plain[name].flatten(), dim=0) > 0.9, name


@pytest.mark.slow
def test_an_untouched_whisper_says_of_clips_what_it_says_of_30_seconds(shared: Path, spoken: list[Utterance]) -> None:
    said = []
    for context in (None, AudioContext(0.2)):
        recognizer = WhisperRecognizer.from_pretrained(shared / "models" / "whisper-tiny", context=context)
        batch = make_batch(spoken, recognizer.processor)
        with torch.no_grad():
            losses = recognizer.losses(recognizer.model, batch) / recognizer.items(batch)
        said.append(losses)
    torch.testing.assert_close(said[1], said[0], rtol=0.1, atol=0.1)


def test_a_row_does_not_hear_its_neighbours(tiny: Path, spoken: list[Utterance]) -> None:
    """Only how much silence follows it depends on them."""
    short = WhisperRecognizer.from_pretrained(tiny, context=AudioContext(3.0))
    batch = make_batch(spoken, short.processor)
    longest = int(batch.feature_lengths.argmax())
    alone = make_batch([spoken[longest]], short.processor)
    with torch.no_grad():
        together = short.losses(short.model, batch)[longest]
        torch.testing.assert_close(together, short.losses(short.model, alone)[0], rtol=1e-4, atol=1e-4)
    options = DecodeOptions(timestamps=True, max_new_tokens=4)
    heard = short.decode(batch, options)[longest]
    assert heard.text == short.decode(alone, options)[0].text
    assert all(word.end_seconds <= spoken[longest].duration_seconds + 0.1 for word in heard.words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a name that releases deprecate, and peft asks by
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_in_short_context_checkpointed_or_not(tiny: Path, method: str) -> None:
    recognizer = build_method(tiny, "whisper", method, *SHORT_CONTEXT)
    batch = speech_batch(recognizer)
    assert batch.features.shape[1] == 400
    plain = {name: value.clone() for name, value in gradient_of(recognizer, batch).items()}
    assert plain and all(value.any() or name.endswith("k_proj.bias") for name, value in plain.items())
    recognizer.model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, value in gradient_of(recognizer, batch).items():
        torch.testing.assert_close(value, plain[name], msg=name)


def test_margins_take_no_room_in_a_payload(recognizer: WhisperRecognizer, spoken: list[Utterance]) -> None:
    short = recognizer.processor.with_context(AudioContext(3.0))
    batch = make_batch(spoken, short, augment=Chain([SpecAugment()]))
    packed = to_bytes(batch)
    assert torch.equal(from_bytes(packed).features, batch.features)
    heard_frames = sum(100 * utterance.duration_seconds for utterance in spoken)
    assert len(packed) < 2 * 80 * 1.05 * heard_frames + int(batch.feature_lengths.sum()) + 2000


def test_a_saved_model_remembers_its_context(tiny: Path, tmp_path: Path) -> None:
    """And is an ordinary Whisper all the same."""
    for method, folder in (("full", tmp_path / "whole"), ("lora", tmp_path / "adapters")):
        folder.mkdir()
        trained = build_method(tiny, "whisper", method, *SHORT_CONTEXT)
        assert isinstance(trained.processor, WhisperProcessor)
        assert trained.processor.context == AudioContext(3.0)
        trained.save_pretrained(folder)
        assert load_recognizer(folder).processor.padded_seconds(5.0) == 30.0  # nobody has checked it yet
        (folder / "myna.json").write_text(json.dumps(json.loads((folder / "myna.json").read_text()) | LEARNED))
        learned = load_recognizer(folder).processor
        assert [learned.padded_seconds(seconds) for seconds in (5.0, 9.5, 9.6)] == [8.0, 12.5, 30.0]
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert stock.config.architectures == ["WhisperForConditionalGeneration"]
    assert type(stock.get_encoder()).__name__ == "WhisperEncoder"


def test_producers_hear_the_same_context(tiny: Path) -> None:
    files = processor_files(WhisperRecognizer.from_pretrained(tiny, context=AudioContext(2.0)))
    assert load_processor(files, context=AudioContext(2.0)).padded_seconds(5.0) == 7.0
    assert load_processor(files).padded_seconds(5.0) == 30.0
