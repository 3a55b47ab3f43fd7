from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from myna.audio.decode import decode
from myna.errors import AudioError, ModelError
from myna.models.parts import freeze_part, frozen_names
from myna.models.recognizer import DecodeOptions
from myna.models.whisper import WhisperRecognizer
from myna.models.whisper_processor import WhisperProcessor
from myna.samples import AudioClip, Batch, RefusalReason, Utterance

EL_PROBLEMA = "es/common_voice_es_18617232.mp3"  # "este es el problema."


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "models" / "whisper-tiny"


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> WhisperRecognizer:
    return WhisperRecognizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[tuple[AudioClip, Utterance]]:
    corpus = shared / "corpora" / "common_voice_es"
    with (corpus / "metadata.csv").open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))[:3]
    return [
        (
            decode(corpus / row["file_path"]),
            Utterance(str(index), row["file_path"], row["transcript"], "", float(row["duration"]), "test", "", "es"),
        )
        for index, row in enumerate(published)
    ]


def make_batch(processor: WhisperProcessor, rows: list[tuple[AudioClip, Utterance]], *, labelled: bool = True) -> Batch:
    labels = [torch.tensor(processor.labels(row) if labelled else [], dtype=torch.int64) for _, row in rows]
    return Batch(
        tuple(row.utterance_id for _, row in rows),
        torch.stack([processor.features(clip) for clip, _ in rows]),
        torch.full((len(rows),), 3000),
        pad_sequence(labels, batch_first=True, padding_value=-100),
        torch.tensor([len(row) for row in labels]),
        torch.ones(len(rows)),
    )


def test_features_are_whispers_own(recognizer: WhisperRecognizer, rows: list[tuple[AudioClip, Utterance]]) -> None:
    clip, _ = rows[0]
    ours = recognizer.processor.features(clip)
    theirs = WhisperFeatureExtractor()(clip.samples, sampling_rate=16_000, return_tensors="pt").input_features[0].T
    assert ours.shape == (3000, 80)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_labels_are_prompt_text_and_end(recognizer: WhisperRecognizer) -> None:
    utterance = Utterance("", "", "  Este es\tel problema. ", "este es el problema", 2.0, "train", language="es-MX")
    tokens = recognizer.processor.tokenizer.convert_ids_to_tokens(recognizer.processor.labels(utterance))
    assert tokens == [
        *("<|startoftranscript|>", "<|es|>", "<|transcribe|>", "<|notimestamps|>"),
        *("ĠEste", "Ġes", "Ġel", "Ġproblema", ".", "<|endoftext|>"),
    ]
    silent = recognizer.processor.labels(replace(utterance, transcript=""))
    assert len(silent) == recognizer.processor.prompt_length + 1


def test_losses_score_text_and_end_alone(
    recognizer: WhisperRecognizer, rows: list[tuple[AudioClip, Utterance]]
) -> None:
    recognizer.model.eval()
    processor, batch = recognizer.processor, make_batch(recognizer.processor, rows)
    with torch.no_grad():
        losses = recognizer.losses(recognizer.model, batch)
        for row, (clip, utterance) in enumerate(rows):
            ids = torch.tensor(processor.labels(utterance))
            features = processor.features(clip).T[None]
            logits = recognizer.model(input_features=features, decoder_input_ids=ids[None]).logits[0]
            # Position 3, <|notimestamps|>, predicts the first token of the text.
            expected = F.cross_entropy(logits[3:-1].double(), ids[4:], reduction="sum")
            assert losses[row].item() == pytest.approx(expected.item(), rel=1e-4)
            assert recognizer.items(batch)[row].item() == len(ids) - 4
    assert (losses / recognizer.items(batch) < 4).all()  # misaligned labels cost about 10 a token


def test_refusals(recognizer: WhisperRecognizer) -> None:
    utterance = Utterance("", "", "hola", "hola", 30.0, "train", language="es")
    processor = recognizer.processor
    assert processor.refusal(utterance) is None
    cases = {
        RefusalReason.TOO_LONG: replace(utterance, duration_seconds=30.2),
        RefusalReason.TOO_MANY_TOKENS: replace(utterance, transcript="y " * 460),
        RefusalReason.BAD_ROW: replace(utterance, language="ky"),
    }
    for reason, bad in cases.items():
        found = processor.refusal(bad)
        assert found is not None
        assert found[0] == reason
    assert "received ky" in str(processor.refusal(cases[RefusalReason.BAD_ROW]))


def test_token_limit_is_exact(recognizer: WhisperRecognizer) -> None:
    utterance = Utterance("", "", " ".join(["y"] * 443), "", 1.0, "train", language="es")
    assert len(recognizer.processor.labels(utterance)) == 448
    assert recognizer.processor.refusal(utterance) is None
    longer = recognizer.processor.refusal(replace(utterance, transcript=utterance.transcript + " y"))
    assert longer == (
        RefusalReason.TOO_MANY_TOKENS,
        "expected at most 448 tokens, prompt and end included; received 449",
    )


def test_long_clips_are_refused_not_cut(recognizer: WhisperRecognizer) -> None:
    with pytest.raises(AudioError, match="expected at most 30 s"):
        recognizer.processor.features(AudioClip(np.zeros(31 * 16_000, dtype=np.float32), 16_000))


def test_language_of_the_model_comes_first(folder: Path) -> None:
    kyrgyz = Utterance("", "", "салам", "", 1.0, "train", language="ky")
    processor = WhisperProcessor.from_pretrained(folder, language="kk")
    assert processor.refusal(kyrgyz) is None
    assert processor.tokenizer.convert_ids_to_tokens(processor.labels(kyrgyz))[1] == "<|kk|>"
    with pytest.raises(ModelError, match="received ky"):
        WhisperProcessor.from_pretrained(folder, language="ky")


def test_decoding_hears_what_was_said(recognizer: WhisperRecognizer, rows: list[tuple[AudioClip, Utterance]]) -> None:
    row = next(row for row in rows if row[1].audio_path == EL_PROBLEMA)
    labelled, unlabelled = (make_batch(recognizer.processor, [row], labelled=flag) for flag in (True, False))
    timed = recognizer.decode(labelled, DecodeOptions(timestamps=True))[0]
    assert timed.text == "Este es el problema."
    assert [word.text for word in timed.words] == ["Este", "es", "el", "problema."]
    times = [time for word in timed.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert times[-1] <= row[0].duration_seconds
    assert all(0 < word.confidence <= 1 for word in timed.words)
    assert recognizer.model.config._attn_implementation == "sdpa"  # put back
    heard = recognizer.decode(unlabelled, DecodeOptions())[0]
    assert (heard.text, heard.language, heard.words) == ("Este es el problema.", "es", ())
    assert heard.confidence == pytest.approx(timed.confidence, rel=1e-4)


def test_each_row_has_its_own_language(recognizer: WhisperRecognizer, rows: list[tuple[AudioClip, Utterance]]) -> None:
    clip, utterance = rows[1]
    pair = [(clip, replace(utterance, language=language)) for language in ("vi", "es")]
    found = recognizer.decode(make_batch(recognizer.processor, pair), DecodeOptions())
    assert [transcript.language for transcript in found] == ["vi", "es"]
    alone = recognizer.decode(make_batch(recognizer.processor, pair[1:]), DecodeOptions())
    assert found[1].text == alone[0].text
    forced = recognizer.decode(make_batch(recognizer.processor, pair), DecodeOptions(language="es"))
    assert [transcript.language for transcript in forced] == ["es", "es"]


def test_silence_has_words_nowhere(recognizer: WhisperRecognizer) -> None:
    silence = AudioClip(np.zeros(8_000, dtype=np.float32), 16_000)
    batch = make_batch(recognizer.processor, [(silence, Utterance("", "", "", "", 0.5, "test"))], labelled=False)
    found = recognizer.decode(batch, DecodeOptions(timestamps=True, language="en", max_new_tokens=8))
    assert all(word.end_seconds <= 0.02 for word in found[0].words)


def test_freezing(folder: Path, rows: list[tuple[AudioClip, Utterance]]) -> None:
    frozen = WhisperRecognizer.from_pretrained(folder)
    for name in frozen_names(frozen.model, layers=2):
        freeze_part(frozen.model, name)
    batch = make_batch(frozen.processor, rows[:1])
    frozen.losses(frozen.model.train(), batch).sum().backward()
    encoder = frozen.model.get_encoder()
    for layer, learns in ((encoder.conv1, False), (encoder.layers[1], False), (encoder.layers[2], True)):
        assert all((value.grad is not None) is learns for value in layer.parameters())
    whole = WhisperRecognizer.from_pretrained(folder)
    for name in frozen_names(whole.model, encoder=True):
        freeze_part(whole.model, name)
    assert not whole.model.get_encoder()(batch.features.transpose(1, 2)).last_hidden_state.requires_grad
    assert whole.losses(whole.model, batch).requires_grad
    with pytest.raises(ModelError, match="at most 4"):
        frozen_names(whole.model, layers=5)


def test_round_trip(recognizer: WhisperRecognizer, rows: list[tuple[AudioClip, Utterance]], tmp_path: Path) -> None:
    recognizer.save_pretrained(tmp_path)
    loaded = WhisperRecognizer.from_pretrained(tmp_path)
    assert loaded.model.dtype == torch.float32
    assert loaded.processor.labels(rows[0][1]) == recognizer.processor.labels(rows[0][1])
    state = loaded.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in recognizer.model.state_dict().items())
    assert loaded.model.generation_config.alignment_heads == recognizer.model.generation_config.alignment_heads
    for name in ("model.safetensors", "myna.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / name).is_file()


def test_broken_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a Whisper.* folder"):
        WhisperRecognizer.from_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, tmp_path / name)
    with pytest.raises(ModelError, match=r"expected a Whisper.* folder"):
        WhisperRecognizer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(ModelError, match=r"expected a Whisper.* folder"):
        WhisperRecognizer.from_pretrained(tmp_path)


def test_english_only_checkpoints(folder: Path, rows: list[tuple[AudioClip, Utterance]], tmp_path: Path) -> None:
    """The tiny checkpoint, told that it knows English alone: no language and no task in its prompt."""
    import json

    for path in folder.iterdir():
        if path.name != "generation_config.json":
            (tmp_path / path.name).symlink_to(path)
    generation = json.loads((folder / "generation_config.json").read_text())
    for key in ("lang_to_id", "task_to_id", "forced_decoder_ids"):
        generation.pop(key)
    (tmp_path / "generation_config.json").write_text(json.dumps(generation | {"is_multilingual": False}))
    english = WhisperRecognizer.from_pretrained(tmp_path)
    tokens = english.processor.tokenizer.convert_ids_to_tokens(english.processor.labels(rows[0][1]))
    assert tokens[:3] == ["<|startoftranscript|>", "<|notimestamps|>", "Ġlo"]
    found = english.decode(make_batch(english.processor, rows[:1]), DecodeOptions())
    assert found[0].language == "en"
    with pytest.raises(ModelError, match=r"knows \(en\); received es"):
        WhisperProcessor.from_pretrained(tmp_path, language="es")
