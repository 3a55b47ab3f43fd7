"""Log-mel features in torch, equal to Whisper's own and to Parakeet's, for every model family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from myna.samples import AudioClip

POWER_FLOOR = 1e-10
# Added to a bin's variance. Speech varies by 0.5 to 1.5 log10 units in a bin; a bin that varies by much less than
# 0.1 holds no speech (such as 4-8 kHz of an 8 kHz recording) and must not be blown up to unit variance.
VARIANCE_FLOOR = 0.01
PARAKEET_POWER_FLOOR = 2.0**-24  # added to each power, as NVIDIA NeMo does
PARAKEET_DEVIATION_FLOOR = 1e-5  # added to a bin's standard deviation
MIN_PARAKEET_SAMPLES = 1_600  # shorter clips are padded with silence: a deviation wants several frames


@dataclass(frozen=True, slots=True)
class LogMel:
    """Log-mel spectrogram of one clip, a pure function of its samples.

    Args:
        n_mels: mel bins (Slaney's scale and area normalisation, 0 Hz to half the sample rate).
        n_fft: window of each frame, samples (periodic Hann).
        hop_length: from one frame to the next, samples.
        sample_rate_hz: of the clips.
        dynamic_range_db: what is further below the clip's loudest point counts as silence; Whisper's is 80.
        normalize: "whisper" scales as Whisper expects (Radford et al. 2022: the top 80 dB, then (x + 4) / 4);
            "utterance" gives each bin zero mean and about unit variance over the clip, which takes the microphone away;
            "level" the clip as a whole, for clips so short that a bin's mean is the word itself.
    """

    n_mels: int = 80
    n_fft: int = 400
    hop_length: int = 160
    sample_rate_hz: int = 16_000
    normalize: Literal["utterance", "level", "whisper"] = "utterance"
    dynamic_range_db: float = 80.0

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip: one for each whole hop, at least one."""
        return max(1, num_samples // self.hop_length)

    def __call__(self, clip: AudioClip) -> torch.Tensor:
        """Features (T, n_mels) float32, T = num_frames(samples of the clip).

        Raises:
            ValueError: the clip has another sample rate, or no samples.
        """
        import torch

        if clip.sample_rate_hz != self.sample_rate_hz or not len(clip.samples):
            raise ValueError(f"expected a clip with samples at {self.sample_rate_hz} Hz; received {clip}")
        samples = torch.from_numpy(np.ascontiguousarray(clip.samples, dtype=np.float32))  # (N,)
        # Reflection needs more samples than it mirrors, and one frame needs one hop.
        shortfall = max(self.n_fft // 2 + 1, self.hop_length) - len(samples)
        if shortfall > 0:
            samples = torch.nn.functional.pad(samples, (0, shortfall))
        spectrum = torch.stft(
            samples, self.n_fft, self.hop_length, window=_window(self.n_fft), center=True, return_complex=True
        )  # (n_fft / 2 + 1, 1 + N / hop)
        power = spectrum[:, : self.num_frames(len(clip.samples))].abs() ** 2  # (n_fft / 2 + 1, T)
        mel = _filterbank(self.n_mels, self.n_fft, self.sample_rate_hz) @ power  # (n_mels, T)
        log_mel = mel.clamp(min=POWER_FLOOR).log10()
        log_mel = log_mel.maximum(log_mel.max() - self.dynamic_range_db / 10)
        return self._normalized(log_mel).T.contiguous()  # (T, n_mels)

    def _normalized(self, log_mel: torch.Tensor) -> torch.Tensor:
        import torch

        if self.normalize == "whisper":
            return (log_mel + 4.0) / 4.0
        over = 1 if self.normalize == "utterance" else (0, 1)
        variance, mean = torch.var_mean(log_mel, dim=over, keepdim=True, correction=0)
        return (log_mel - mean) / (variance + VARIANCE_FLOOR).sqrt()


@dataclass(frozen=True, slots=True)
class ParakeetLogMel:
    """Log-mel spectrogram as Parakeet was trained on: high frequencies raised, each bin normalised over the clip.

    Equal to transformers' `ParakeetFeatureExtractor`, which is NVIDIA NeMo's `AudioToMelSpectrogramPreprocessor`.

    Args:
        n_mels: mel bins (Slaney's scale and area normalisation, 0 Hz to half the sample rate).
        n_fft: samples of a transform.
        win_length: window of each frame in the middle of it, samples (symmetric Hann).
        hop_length: from one frame to the next, samples.
        sample_rate_hz: of the clips.
        preemphasis: share of the sample before that is taken off each sample.
    """

    n_mels: int = 80
    n_fft: int = 512
    win_length: int = 400
    hop_length: int = 160
    sample_rate_hz: int = 16_000
    preemphasis: float = 0.97

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip: one for each whole hop."""
        return max(MIN_PARAKEET_SAMPLES, num_samples) // self.hop_length

    def __call__(self, clip: AudioClip) -> torch.Tensor:
        """Features (T, n_mels) float32, T = num_frames(samples of the clip).

        Raises:
            ValueError: the clip has another sample rate, or no samples.
        """
        import torch

        if clip.sample_rate_hz != self.sample_rate_hz or not len(clip.samples):
            raise ValueError(f"expected a clip with samples at {self.sample_rate_hz} Hz; received {clip}")
        samples = torch.from_numpy(np.ascontiguousarray(clip.samples, dtype=np.float32))  # (N,)
        samples = torch.cat([samples[:1], samples[1:] - self.preemphasis * samples[:-1]])
        samples = torch.nn.functional.pad(samples, (0, max(0, MIN_PARAKEET_SAMPLES - len(samples))))
        window = torch.hann_window(self.win_length, periodic=False)
        spectrum = torch.stft(
            samples,
            self.n_fft,
            self.hop_length,
            self.win_length,
            window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )  # (n_fft / 2 + 1, 1 + N / hop)
        power = spectrum[:, : self.num_frames(len(clip.samples))].abs() ** 2  # (n_fft / 2 + 1, T)
        mel = _filterbank(self.n_mels, self.n_fft, self.sample_rate_hz) @ power  # (n_mels, T)
        log_mel = (mel + PARAKEET_POWER_FLOOR).log()
        deviation, mean = torch.std_mean(log_mel, dim=1, keepdim=True)  # over T - 1, as theirs
        return ((log_mel - mean) / (deviation + PARAKEET_DEVIATION_FLOOR)).T.contiguous()  # (T, n_mels)


def mel_filterbank(n_mels: int, n_fft: int, sample_rate_hz: int) -> NDArray[np.float64]:
    """Triangular filters (n_mels, n_fft / 2 + 1) of Slaney's Auditory Toolbox (1998), each with area 1 in Hz."""
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate_hz / 2), n_mels + 2))  # (n_mels + 2,)
    bins_hz = np.linspace(0.0, sample_rate_hz / 2, n_fft // 2 + 1)
    widths_hz = np.diff(edges_hz)
    distance_hz = edges_hz[:, None] - bins_hz[None, :]  # (n_mels + 2, bins)
    rising = -distance_hz[:-2] / widths_hz[:-1, None]
    falling = distance_hz[2:] / widths_hz[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))  # (n_mels, bins)
    return triangles * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]


# Slaney's mel scale: linear below 1 kHz (15 mels), logarithmic above (27 mels for a factor of 6.4).
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1_000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL  # 15
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _HZ_PER_MEL if hz < _BREAK_HZ else float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))


@cache
def _window(n_fft: int) -> torch.Tensor:
    import torch

    return torch.hann_window(n_fft)  # (n_fft,)


@cache
def _filterbank(n_mels: int, n_fft: int, sample_rate_hz: int) -> torch.Tensor:
    import torch

    return torch.from_numpy(mel_filterbank(n_mels, n_fft, sample_rate_hz).astype(np.float32))  # (n_mels, bins)
