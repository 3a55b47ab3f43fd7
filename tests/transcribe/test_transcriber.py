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
from myna.models.recognizer import DecodeOptions
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.samples import AudioClip, Batch, Refusal, RefusalReason, Transcript, Word
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


class Tape:
    """A recogniser of made-up speech: its loudness says when it was spoken, and at each second begins a word.

    Words that a window cuts off are heard wrong.
    """

    sample_rate_hz = 1_000
    word_seconds = 0.8

    def __init__(self) -> None:
        self.processor = self
        self.model = torch.nn.Identity()
        self.options: list[tuple[int, bool]] = []  # rows and timestamps of each batch

    @classmethod
    def record(cls, seconds: float) -> AudioClip:
        times = np.arange(round(seconds * cls.sample_rate_hz)) / cls.sample_rate_hz
        signs = np.where(np.arange(len(times)) % 2, -1, 1)
        return AudioClip((signs * (0.5 + times / 1_000)).astype(np.float32), cls.sample_rate_hz)

    def features(self, clip: AudioClip) -> torch.Tensor:
        return torch.from_numpy(np.abs(clip.samples))[:, None]  # (T, 1)

    def padded_seconds(self, duration_seconds: float) -> float:
        return duration_seconds

    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        self.options.append((len(batch.features), options.timestamps))
        return [
            self.hear(rows[:length, 0].numpy(), options.timestamps)
            for rows, length in zip(batch.features, batch.feature_lengths.tolist(), strict=True)
        ]

    def hear(self, loudness: np.ndarray, timestamps: bool) -> Transcript:
        spoken = loudness[loudness >= 0.4]  # the rest is a pause
        begin = (float(spoken[0]) - 0.5) * 1_000 if len(spoken) else 0.0
        offset = float(np.argmax(loudness >= 0.4)) / self.sample_rate_hz
        end = begin + len(spoken) / self.sample_rate_hz
        words = []
        for number in range(int(begin), int(end) + 1):
            start, stop = max(begin, number), min(end, number + self.word_seconds)
            if stop - start > 0.1:
                whole = stop - start > self.word_seconds - 0.01
                text = f"w{number}" if whole else "uh"
                words.append(Word(text, start - begin + offset, stop - begin + offset, 0.9 if whole else 0.3))
        return Transcript(" ".join(word.text for word in words), 0.9, tuple(words) if timestamps else ())


@pytest.mark.parametrize("window_seconds", [6.0, 10.0, 30.0])
@pytest.mark.parametrize("seconds", [61.8, 100.8])
def test_speech_without_pauses_is_heard_as_a_whole(window_seconds: float, seconds: float) -> None:
    tape, clip = Tape(), Tape.record(seconds)
    heard = Transcriber(tape, window_seconds=window_seconds, device="cpu").transcribe(clip)  # type: ignore[arg-type]
    assert heard.text == " ".join(f"w{number}" for number in range(round(seconds + 0.2)))
    assert [word.start_seconds for word in heard.words] == pytest.approx(range(len(heard.words)), abs=0.02)
    assert (heard.duration_seconds, heard.confidence) == (clip.duration_seconds, pytest.approx(0.9))
    again = Transcriber(tape, window_seconds=window_seconds, timestamps=False, device="cpu").transcribe(clip)  # type: ignore[arg-type]
    assert (again.text, again.words) == (heard.text, ())


def test_word_times_are_computed_for_windows_with_an_overlap_alone() -> None:
    tape = Tape()
    speech, short = Tape.record(40.8), Tape.record(9.8)
    pause = np.zeros(1_000, dtype=np.float32)
    paused = AudioClip(np.concatenate([speech.samples[:7_800], pause, speech.samples[:7_800]]), tape.sample_rate_hz)
    transcriber = Transcriber(tape, timestamps=False, window_seconds=10.0, device="cpu")  # type: ignore[arg-type]
    texts = [
        heard.text for heard in transcriber.transcribe_batch([short, speech, paused]) if not isinstance(heard, Refusal)
    ]
    eight = " ".join(f"w{number}" for number in range(8))
    assert texts == [f"{eight} w8 w9", " ".join(f"w{number}" for number in range(41)), f"{eight} {eight}"]
    assert sum(rows for rows, timestamps in tape.options if not timestamps) == 3  # the short one, two beside the pause
    assert sum(rows for rows, timestamps in tape.options if timestamps) == 7
