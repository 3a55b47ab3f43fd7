"""Whisper's front end and tokenizer: log-mel of 30 s or less, and labels that begin with its prompt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

from myna.audio.features import LogMel
from myna.data.checks import check_labelled
from myna.errors import AudioError, ModelError
from myna.models.audio_context import WINDOW_FRAMES, WINDOW_SECONDS, context_frames, context_seconds
from myna.models.weights import model_errors, quiet
from myna.models.whisper_words import UNSPACED_LANGUAGES
from myna.samples import AudioClip, RefusalReason, Utterance
from myna.text import tidy

if TYPE_CHECKING:
    from torch import Tensor

    from myna.models.audio_context import AudioContext

SAMPLE_RATE_HZ = 16_000
ROUNDING_SECONDS = 0.1  # what resampling and rounded headers may add to a clip of 30 s; it is cut off
LANGUAGE_ALIASES = {"jv": "jw", "nb": "no", "fil": "tl", "cmn": "zh", "iw": "he"}  # Whisper's own codes


class WhisperProcessor:
    """Features of 30 s or of a short context, and labels with Whisper's prompt before the published transcript.

    Labels are the whole decoder sequence: `<|startoftranscript|><|lang|><|transcribe|><|notimestamps|>`, the text
    and `<|endoftext|>`. English-only checkpoints have no language and no task in their prompt.

    Args:
        tokenizer: of the checkpoint.
        n_mels: 80, or 128 from large-v3 on.
        language_ids: token of each language by its code; {} for English-only checkpoints.
        max_tokens: what the decoder has positions for.
        language: used for every utterance; "" takes each utterance's own.
        context: what the encoder hears of a clip; None is 30 s.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self,
        tokenizer: WhisperTokenizer,
        n_mels: int,
        language_ids: dict[str, int],
        max_tokens: int = 448,
        language: str = "",
        context: AudioContext | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.log_mel = LogMel(n_mels=n_mels, sample_rate_hz=SAMPLE_RATE_HZ, normalize="whisper")
        self.language_ids = language_ids
        self.max_tokens = max_tokens
        self.language = language
        self.context = context
        self.start_id = self._special("startoftranscript")
        self.no_timestamps_id = self._special("notimestamps")
        self.end_id = self._special("endoftext")
        if language:
            self.language_code(language)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, language: str = "", context: AudioContext | None = None
    ) -> WhisperProcessor:
        """Read tokenizer and sizes from a Whisper folder.

        Raises:
            ModelError: the folder is no Whisper checkpoint, or does not know `language`.
        """
        with model_errors(folder, "Whisper"), quiet():
            tokenizer = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
            config = WhisperConfig.from_pretrained(folder, local_files_only=True)
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        language_ids: dict[str, int] = {}
        if getattr(generation, "is_multilingual", True):
            tokens: dict[str, int] = getattr(generation, "lang_to_id", None) or {}
            language_ids = {token.strip("<|>"): index for token, index in tokens.items()}
        return cls(tokenizer, config.num_mel_bins, language_ids, config.max_target_positions, language, context)

    def with_context(self, context: AudioContext | None) -> WhisperProcessor:
        """The same processor for another context."""
        other = copy.copy(self)
        other.context = context
        return other

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files and `preprocessor_config.json`, as transformers reads them."""
        self.tokenizer.save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=self.log_mel.n_mels).save_pretrained(folder)

    @property
    def prompt_length(self) -> int:
        """Tokens before the text."""
        return 4 if self.language_ids else 2

    def prompt(self, code: str, task: str = "transcribe") -> list[int]:
        """What the decoder is told before it speaks.

        Args:
            code: Whisper's code of the language.
            task: "transcribe", or "translate" into English.
        """
        spoken = [self.language_ids[code], self._special(task)] if self.language_ids else []
        return [self.start_id, *spoken, self.no_timestamps_id]

    def _special(self, name: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(f"<|{name}|>"))

    def features(self, clip: AudioClip) -> Tensor:
        """Features (T, n_mels) float32 of a clip at 16 kHz and the silence after it; T is even, 3000 in full context.

        Raises:
            AudioError: the clip is longer than 30 s.
        """
        if clip.duration_seconds > WINDOW_SECONDS + ROUNDING_SECONDS:
            raise AudioError(RefusalReason.TOO_LONG, _too_long(clip.duration_seconds))
        num_frames = context_frames(clip.duration_seconds, self.context)
        # One frame more, since the last window would else be filled by reflection.
        num_samples = self.log_mel.hop_length * min(num_frames + 1, WINDOW_FRAMES)
        samples = np.zeros(num_samples, dtype=np.float32)
        heard = clip.samples[:num_samples]
        samples[: len(heard)] = heard
        return self.log_mel(AudioClip(samples, clip.sample_rate_hz))[:num_frames]

    def labels(self, utterance: Utterance) -> list[int]:
        """The decoder's sequence, from `<|startoftranscript|>` to `<|endoftext|>`.

        Raises:
            ModelError: Whisper does not know the utterance's language.
        """
        code = self.language_code(self.language or utterance.language) if self.language_ids else "en"
        # Whisper was trained on text that begins with the space before its first word.
        text = tidy(utterance.transcript)
        text = text if code in UNSPACED_LANGUAGES or not text else f" {text}"
        return [*self.prompt(code), *self.tokenizer.encode(text, add_special_tokens=False), self.end_id]

    def padded_seconds(self, duration_seconds: float) -> float:
        """What a clip costs: itself and the margin, or 30 in full context."""
        return float(context_seconds(duration_seconds, self.context))

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """TOO_LONG over 30 s, TOO_MANY_TOKENS over the positions, BAD_ROW for an unknown language, EMPTY_TRANSCRIPT."""
        if utterance.duration_seconds > WINDOW_SECONDS + ROUNDING_SECONDS:
            return RefusalReason.TOO_LONG, _too_long(utterance.duration_seconds)
        try:
            num_tokens = len(self.labels(utterance))
        except ModelError as error:
            return RefusalReason.BAD_ROW, str(error)
        if num_tokens > self.max_tokens:
            expected = f"expected at most {self.max_tokens} tokens, prompt and end included"
            return RefusalReason.TOO_MANY_TOKENS, f"{expected}; received {num_tokens}"
        return check_labelled(utterance)

    def language_code(self, language: str) -> str:
        """Whisper's code of a language, such as "vi" for "vi-VN".

        Raises:
            ModelError: there is none.
        """
        code = language.lower().replace("_", "-").partition("-")[0]
        code = LANGUAGE_ALIASES.get(code, code)
        if code in self.language_ids or (code == "en" and not self.language_ids):
            return code
        known = ", ".join(sorted(self.language_ids)) or "en"
        raise ModelError(
            f"expected a language that this Whisper knows ({known}); received {language or 'none'}",
            "Set model.language to one of these, for a language that is not among them to the nearest relative.",
        )


def _too_long(duration_seconds: float) -> str:
    return f"expected at most {WINDOW_SECONDS:.0f} s, all that Whisper hears; received {duration_seconds:.2f} s"
