from __future__ import annotations

import numpy as np
import pytest
import torch
from recordings import chirp

from myna.audio.decode import decode
from myna.audio.features import LogMel, ParakeetLogMel, mel_filterbank
from myna.samples import AudioClip


def noise_clip(seconds: float, rate_hz: int = 16_000) -> AudioClip:
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate_hz))
    return AudioClip(samples.astype(np.float32), rate_hz)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("samples", [chirp(30.0), noise_clip(30.0).samples, np.zeros(480_000, np.float32)])
def test_equal_to_whisper_on_synthetic_audio(n_mels, samples):
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=n_mels)(samples, sampling_rate=16_000, return_tensors="pt")
    ours = LogMel(n_mels=n_mels, normalize="whisper")(AudioClip(samples, 16_000))  # (3000, n_mels)
    assert ours.dtype == torch.float32
    assert (ours.T - theirs.input_features[0]).abs().max() < 1e-4


def test_equal_to_whisper_on_real_speech(shared):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(shared / "models" / "whisper-tiny")
    paths = sorted((shared / "corpora" / "common_voice_vi").rglob("*.mp3"))[:5]
    assert len(paths) == 5
    for path in paths:
        samples = decode(path).samples
        theirs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features[0]
        padded = np.pad(samples, (0, 480_000 - len(samples)))
        ours = LogMel(normalize="whisper")(AudioClip(padded, 16_000))
        assert (ours.T - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 200, 201, 319, 320, 400, 16_000, 16_001])
@pytest.mark.parametrize(("n_fft", "hop_length"), [(400, 160), (512, 128), (64, 64)])
def test_the_number_of_frames_is_known_beforehand(num_samples, n_fft, hop_length):
    log_mel = LogMel(n_mels=16, n_fft=n_fft, hop_length=hop_length)
    features = log_mel(AudioClip(noise_clip(1.1).samples[:num_samples], 16_000))
    assert features.shape == (log_mel.num_frames(num_samples), 16)
    assert log_mel.num_frames(num_samples) == max(1, num_samples // hop_length)
    assert features.isfinite().all()


def test_utterance_normalisation():
    features = LogMel()(noise_clip(2.0))
    assert features.mean(dim=0).abs().max() < 1e-5
    # A bin of variance v comes out with v / (v + 0.01); noise varies by about 0.1 to 0.3 log10 units in a bin.
    assert features.var(dim=0).max() <= 1.0
    assert features.var(dim=0).median() > 0.5


def test_the_volume_cancels_out():
    clip = noise_clip(1.0)
    quieter = AudioClip(clip.samples / 8, 16_000)
    assert (LogMel()(clip) - LogMel()(quieter)).abs().max() < 1e-3


def test_bands_without_sound_stay_near_zero():
    """Speech recorded at 8 kHz holds nothing above 4 kHz; its resampled rest must not be blown up to unit variance."""
    import soxr

    narrow = soxr.resample(chirp(2.0, 8_000) * np.hanning(16_000).astype(np.float32), 8_000, 16_000)
    features = LogMel()(AudioClip(narrow, 16_000))
    above_4_khz = mel_filterbank(80, 400, 16_000)[:, :104].sum(axis=1) == 0  # bin 104 is at 4160 Hz
    assert above_4_khz.sum() > 15
    assert features[:, torch.from_numpy(above_4_khz)].abs().max() < 0.1
    assert features[:, ~torch.from_numpy(above_4_khz)].abs().max() > 1


def test_silence_has_no_features():
    assert LogMel()(AudioClip(np.zeros(16_000, np.float32), 16_000)).abs().max() == 0


def test_the_range_below_the_loudest_point_is_limited():
    log_mel = LogMel(normalize="whisper")(AudioClip(np.concatenate([chirp(1.0), np.zeros(16_000, np.float32)]), 16_000))
    assert (log_mel.max() - log_mel.min()) * 4 == pytest.approx(8.0, abs=1e-5)  # 80 dB


def test_bit_identical_whatever_came_before():
    first = LogMel()(noise_clip(1.0))
    LogMel()(AudioClip(chirp(2.0), 16_000))
    assert torch.equal(LogMel()(noise_clip(1.0)), first)


def test_another_sample_rate_is_refused():
    with pytest.raises(ValueError, match="16000 Hz; received AudioClip"):
        LogMel()(noise_clip(1.0, rate_hz=8_000))
    with pytest.raises(ValueError, match="0 samples"):
        LogMel()(AudioClip(np.zeros(0, np.float32), 16_000))


def parakeets_own(samples: np.ndarray) -> torch.Tensor:
    from transformers import ParakeetFeatureExtractor

    given = ParakeetFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt")
    return given.input_features[0][given.attention_mask[0]]  # (T, 80)


@pytest.mark.parametrize("num_samples", [1_600, 1_759, 1_760, 16_001, 48_000])
def test_equal_to_parakeet_on_synthetic_audio(num_samples):
    for samples in (chirp(3.0)[:num_samples], noise_clip(3.0).samples[:num_samples]):
        theirs = parakeets_own(samples)
        ours = ParakeetLogMel()(AudioClip(samples, 16_000))
        assert ours.shape == theirs.shape == (ParakeetLogMel().num_frames(num_samples), 80)
        assert (ours - theirs).abs().max() < 1e-4


def test_equal_to_parakeet_on_real_speech(shared):
    paths = sorted((shared / "corpora" / "common_voice_vi").rglob("*.mp3"))[:5]
    assert len(paths) == 5
    for path in paths:
        clip = decode(path, sample_rate_hz=16_000)
        assert (ParakeetLogMel()(clip) - parakeets_own(clip.samples)).abs().max() < 1e-4


@pytest.mark.parametrize("num_samples", [1, 160, 161, 1_599])
def test_parakeet_hears_short_clips_and_silence(num_samples):
    for samples in (noise_clip(1.0).samples[:num_samples], np.zeros(num_samples, np.float32)):
        features = ParakeetLogMel()(AudioClip(samples, 16_000))
        assert features.shape == (10, 80)
        assert features.isfinite().all()
