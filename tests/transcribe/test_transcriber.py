from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tones import SAMPLE_RATE_HZ, sing

from myna.audio.features import LogMel
from myna.errors import AudioError
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.samples import AudioClip, Refusal, RefusalReason, Transcript
from myna.transcribe.transcriber import BLOCK_SECONDS, Transcriber


@pytest.fixture(scope="module")
def recognizer() -> CTCRecognizer:
    """An untrained model: it babbles, but always the same for the same audio."""
    processor = CTCProcessor(TextTokenizer.train(["ab cd", "d c b a"]), LogMel(n_mels=20))
    generator_state = torch.get_rng_state()
    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=processor.tokenizer.vocab_size,
        n_mels=20,
        d_model=16,
        num_encoder_layers=1,
        num_heads=2,
        d_ff=16,
    )
    model = TransformerForCTC(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    torch.set_rng_state(generator_state)
    return CTCRecognizer(processor, model, {"language": "en"})


def song(seconds: float, seed: int = 0) -> AudioClip:
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("abcd "), size=max(1, round(seconds / 0.16))))
    return AudioClip(sing(text, 1.0, rng), SAMPLE_RATE_HZ)


def same(left: Transcript, right: Transcript) -> bool:
    close = left.confidence == pytest.approx(right.confidence, abs=1e-4)
    return close and (left.text, left.duration_seconds) == (right.text, right.duration_seconds)


def test_one_recording(recognizer: CTCRecognizer, tmp_path: Path) -> None:
    clip = song(2.0)
    path = tmp_path / "a.wav"
    soundfile.write(path, clip.samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    heard = Transcriber(recognizer, device="cpu").transcribe(path)
    assert heard.text
    assert heard.text.split() == [word.text for word in heard.words]
    assert 0 < heard.confidence <= 1
    assert heard.duration_seconds == pytest.approx(clip.duration_seconds)
    assert heard.language == "en"
    times = [t for word in heard.words for t in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    for source in (str(path), path.read_bytes(), clip):
        assert Transcriber(recognizer, device="cpu").transcribe(source) == heard


def test_batches_give_what_single_recordings_give_in_their_order(recognizer: CTCRecognizer) -> None:
    clips = [song(seconds, seed) for seed, seconds in enumerate((1.0, 7.0, 0.3, 3.0, 3.0, 0.02))]
    transcriber = Transcriber(recognizer, batch_seconds=9.0, device="cpu")
    single = [transcriber.transcribe(clip) for clip in clips]
    assert len({heard.text for heard in single}) > 3
    together = transcriber.transcribe_batch(clips)
    assert all(same(left, right) for left, right in zip(together, single, strict=True))


def test_bad_recordings_keep_their_place(recognizer: CTCRecognizer, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    bad = [tmp_path / "missing.wav", b"noise", tmp_path / "text.wav", AudioClip(np.zeros(0, np.float32), 16_000)]
    transcriber = Transcriber(recognizer, device="cpu")
    clip = song(1.0)
    heard = transcriber.transcribe_batch([bad[0], clip, *bad[1:], clip])
    assert [type(result) for result in heard] == [Refusal, Transcript, Refusal, Refusal, Refusal, Transcript]
    assert [result.reason for result in heard if isinstance(result, Refusal)] == [
        RefusalReason.MISSING_FILE,
        RefusalReason.UNREADABLE,
        RefusalReason.UNREADABLE,
        RefusalReason.EMPTY_AUDIO,
    ]
    with pytest.raises(AudioError, match="missing_file"):
        transcriber.transcribe(bad[0])


def test_long_audio_is_joined_from_windows(recognizer: CTCRecognizer) -> None:
    clips = [song(4.0, seed) for seed in range(3)]
    pause = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    samples = np.concatenate([clips[0].samples, pause, clips[1].samples, pause, clips[2].samples])
    heard = Transcriber(recognizer, window_seconds=6.0, device="cpu").transcribe(AudioClip(samples, SAMPLE_RATE_HZ))
    assert heard.duration_seconds == pytest.approx(len(samples) / SAMPLE_RATE_HZ)
    assert heard.text.split() == [word.text for word in heard.words]
    starts = [word.start_seconds for word in heard.words]
    assert starts == sorted(starts)
    assert starts[-1] > 8.0
    assert max(word.end_seconds for word in heard.words) <= heard.duration_seconds + 0.1


def test_other_sample_rates_are_converted(recognizer: CTCRecognizer) -> None:
    clip = AudioClip(np.repeat(song(1.0).samples, 3), 48_000)
    heard = Transcriber(recognizer, device="cpu").transcribe(clip)
    assert heard.duration_seconds == pytest.approx(clip.duration_seconds, abs=1e-3)


def test_recordings_beyond_the_limit_are_refused(recognizer: CTCRecognizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", song(3.0).samples, SAMPLE_RATE_HZ)
    (refusal,) = Transcriber(recognizer, max_seconds=2.0, device="cpu").transcribe_batch([tmp_path / "long.wav"])
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.TOO_LONG


def test_results_come_before_all_is_read(recognizer: CTCRecognizer) -> None:
    read = 0
    clip = AudioClip(np.zeros(round(BLOCK_SECONDS / 3) * 1_000, dtype=np.float32), 1_000)

    def sources():  # type: ignore[no-untyped-def]
        nonlocal read
        for _ in range(5):
            read += 1
            yield clip

    results = Transcriber(recognizer, timestamps=False, device="cpu").transcribe_each(sources())
    next(results)
    assert read == 3
    assert len(list(results)) == 4
