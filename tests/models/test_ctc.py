from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from myna.audio.features import LogMel
from myna.errors import ModelError
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.recognizer import DecodeOptions
from myna.models.tokenizer import TextTokenizer
from myna.samples import AudioClip, Batch, RefusalReason, Utterance

UTTERANCE = Utterance("0" * 16, "/clip.wav", "Aab, c!", "aab c", 1.0, "train")


@pytest.fixture
def processor() -> CTCProcessor:
    return CTCProcessor(TextTokenizer.train(["abc a"]), LogMel(n_mels=20))


@pytest.fixture
def recognizer(processor: CTCProcessor) -> CTCRecognizer:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_encoder_layers": 1, "num_heads": 2, "d_ff": 32, "conv_kernel_size": 3}
    config = ConformerConfig(vocab_size=processor.tokenizer.vocab_size, n_mels=20, **sizes)
    return CTCRecognizer(processor, ConformerForCTC(config), {"family": "conformer", "language": "en"})


def make_batch(lengths: list[int]) -> Batch:
    features = torch.randn(len(lengths), max(lengths), 20, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[2, 2, 3], [4, -100, -100]])[: len(lengths)]
    return Batch(
        tuple(str(row) for row in range(len(lengths))),
        features,
        torch.tensor(lengths),
        labels,
        (labels >= 0).sum(1),
        torch.ones(len(lengths)),
    )


def test_labels_come_from_the_normalised_text(processor: CTCProcessor) -> None:
    assert processor.tokenizer.decode(processor.labels(UTTERANCE)) == "aab c"


@pytest.mark.parametrize(("num_frames", "feasible"), [(21, True), (20, False)])
def test_refusal_is_exact(processor: CTCProcessor, num_frames: int, feasible: bool) -> None:
    # 5 labels and 1 repeat need 6 encoder frames: 21 to 24 feature frames.
    utterance = replace(UTTERANCE, duration_seconds=num_frames / 100)
    clip = AudioClip(np.zeros(num_frames * 160, dtype=np.float32), 16_000)
    assert len(processor.features(clip)) == num_frames
    found = processor.refusal(utterance)
    if feasible:
        assert found is None
    else:
        assert found is not None
        assert found[0] == RefusalReason.CTC_INFEASIBLE
        assert "at least 6 encoder frames (5 labels + 1 adjacent repeats); received 5" in found[1]


def test_files_round_trip(processor: CTCProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = CTCProcessor.from_pretrained(tmp_path)
    assert loaded.log_mel == processor.log_mel
    assert loaded.tokenizer.pieces == processor.tokenizer.pieces
    (tmp_path / "preprocessor_config.json").write_text('{"n_mels": "many"}')
    with pytest.raises(ModelError, match="expected the settings of LogMel"):
        CTCProcessor.from_pretrained(tmp_path)


def test_losses_and_items(recognizer: CTCRecognizer) -> None:
    recognizer.model.eval()
    both = make_batch([60, 33])
    losses = recognizer.losses(recognizer.model, both)
    assert losses.shape == (2,)
    assert recognizer.items(both).tolist() == [1.0, 1.0]
    alone = recognizer.losses(recognizer.model, make_batch([60]))
    torch.testing.assert_close(losses[:1], alone)


@pytest.mark.parametrize("beam_width", [1, 4])
def test_decoding_has_words_with_times(recognizer: CTCRecognizer, beam_width: int) -> None:
    recognizer.model.train()
    found = recognizer.decode(make_batch([60, 33]), DecodeOptions(beam_width=beam_width, timestamps=True))
    assert recognizer.model.training  # put back
    assert [round(transcript.duration_seconds, 2) for transcript in found] == [0.6, 0.36]
    for transcript in found:
        assert transcript.text  # untrained, but never silent with this seed
        assert " ".join(word.text for word in transcript.words) == transcript.text
        assert 0 < transcript.confidence <= 1
        assert transcript.language == "en"
        times = [time for word in transcript.words for time in (word.start_seconds, word.end_seconds)]
        assert times == sorted(times)
        assert times[-1] <= transcript.duration_seconds + 1e-9


def test_decoding_does_not_depend_on_neighbours(recognizer: CTCRecognizer) -> None:
    both = make_batch([60, 33])
    alone = replace(both, features=both.features[1:, :33], feature_lengths=both.feature_lengths[1:])
    together, single = (recognizer.decode(batch, DecodeOptions()) for batch in (both, alone))
    assert together[1].text == single[0].text


def test_a_processor_must_fit_its_model(recognizer: CTCRecognizer, processor: CTCProcessor) -> None:
    other = CTCProcessor(TextTokenizer.train(["abcdefg"]), processor.log_mel)
    with pytest.raises(ModelError, match=r"expected vocab_size=6, as the model has it; received 10"):
        CTCRecognizer(other, recognizer.model)
