"""The wav2vec 2.0 family's input, the samples themselves, and its vocabulary of characters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoConfig, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from myna.errors import ModelError
from myna.models.ctc import FEATURES_FILE, Count, ctc_refusal
from myna.models.ctc_decode import WORD_BOUNDARY
from myna.models.subsampling import frame_mask
from myna.models.tokenizer import TOKENIZER_FILE, UNKNOWN_SPELLING, TextTokenizer
from myna.models.weights import model_errors, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedConfig

    from myna.samples import AudioClip, Batch, RefusalReason, Utterance

VOCABULARY_FILE = "vocab.json"  # of transformers' Wav2Vec2CTCTokenizer
MAX_VOCABULARY_BYTES = 10_000_000
MIN_SAMPLES = 1_600  # 0.1 s: shorter clips are padded with silence, or no encoder frame would be left of them
VARIANCE_FLOOR = 1e-7  # of transformers' own normalisation


class Wav2Vec2Processor:
    """Samples (N, 1), and the labels of the normalised text.

    Args:
        tokenizer: output units.
        convolutions: (kernel, stride) of each layer of the front end.
        sample_rate_hz: of the clips.
        normalize: give each clip zero mean and unit variance.
        attention_mask: tell the model what is padding; checkpoints with group normalisation never learned to be told.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        convolutions: Sequence[tuple[int, int]],
        *,
        sample_rate_hz: int = 16_000,
        normalize: bool = True,
        attention_mask: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.convolutions = tuple(convolutions)
        self.sample_rate_hz = sample_rate_hz
        self.normalize = normalize
        self.attention_mask = attention_mask

    @classmethod
    def from_pretrained(cls, folder: str | Path, tokenizer: TextTokenizer | None = None) -> Wav2Vec2Processor:
        """Read a checkpoint's settings, and its vocabulary when no tokenizer is given.

        Raises:
            ModelError: the folder is no such checkpoint, or has no vocabulary that can be used.
        """
        with model_errors(folder, "wav2vec 2.0"), quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))
            settings = _settings(Path(folder), config)
        _refuse_adapter(folder, config)
        if tokenizer is None:
            vocabulary = read_vocabulary(folder)
            if not vocabulary:
                raise ModelError(
                    f"{folder}: expected a vocabulary, {TOKENIZER_FILE} of Myna or {VOCABULARY_FILE} with blank and "
                    "unknown; there is none",
                    "Fine-tune it first: `myna train --config wav2vec2-finetune model.pretrained=...`.",
                )
            tokenizer = vocabulary_tokenizer(folder, vocabulary)
        return cls(
            tokenizer,
            convolutions,
            sample_rate_hz=settings.sampling_rate,
            normalize=settings.do_normalize,
            attention_mask=settings.return_attention_mask,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, as transformers reads it, and `tokenizer.json`."""
        Wav2Vec2FeatureExtractor(
            sampling_rate=self.sample_rate_hz,
            do_normalize=self.normalize,
            return_attention_mask=self.attention_mask,
        ).save_pretrained(folder)
        self.tokenizer.save(folder)

    @property
    def frame_seconds(self) -> float:
        """Length of an encoder frame: 20 ms in all published models."""
        hop_samples = int(np.prod([stride for _, stride in self.convolutions]))
        return hop_samples / self.sample_rate_hz

    def num_frames(self, num_samples: Count) -> Count:
        """Encoder frames of so many samples, or of each length in a tensor of them."""
        frames = num_samples
        for kernel, stride in self.convolutions:
            frames = (frames - kernel) // stride + 1
        return frames

    def frames_in(self, duration_seconds: float) -> int:
        """Encoder frames of a clip of this length."""
        return self.num_frames(max(MIN_SAMPLES, round(duration_seconds * self.sample_rate_hz)))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the encoder takes of a batch: samples (B, N), and with `attention_mask` which of them are real."""
        inputs = {"input_values": batch.features[:, :, 0]}  # (B, N)
        if self.attention_mask:
            inputs["attention_mask"] = frame_mask(batch.feature_lengths, batch.features.shape[1]).long()
        return inputs

    def features(self, clip: AudioClip) -> Tensor:
        """Samples (N, 1) float32 of a clip at `sample_rate_hz`, normalised if the checkpoint wants it."""
        samples = np.asarray(clip.samples, dtype=np.float32)
        if self.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_FLOOR)
        shortfall = max(0, MIN_SAMPLES - len(samples))
        return torch.from_numpy(np.pad(samples, (0, shortfall)))[:, None]  # (N, 1)

    def labels(self, utterance: Utterance) -> list[int]:
        """Token ids of the normalised text."""
        return self.tokenizer.encode(utterance.text)

    def padded_seconds(self, duration_seconds: float) -> float:
        """What a clip of this length costs: its length."""
        return duration_seconds

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """EMPTY_TRANSCRIPT, or CTC_INFEASIBLE when there are fewer encoder frames than labels + adjacent repeats."""
        return ctc_refusal(utterance, self.labels(utterance), self.frames_in(utterance.duration_seconds))


def read_vocabulary(folder: str | Path) -> dict[str, int]:
    """What each row of a checkpoint's head spells, in our spelling: "" the blank, "⁇" unknown, "▁" the space.

    Letters are lower case unless the checkpoint has both cases; tokens that spell nothing are left out.

    Returns:
        Rows by spelling, the blank first and unknown second; {} when the checkpoint has no such vocabulary.

    Raises:
        ModelError: there is one that cannot be read.
    """
    path = Path(folder) / VOCABULARY_FILE
    if not path.is_file():
        is_ours = path.with_name(TOKENIZER_FILE).is_file()
        return {piece: row for row, piece in enumerate(TextTokenizer.load(folder).pieces)} if is_ours else {}
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise ModelError(f"{path}: expected a vocabulary of at most {MAX_VOCABULARY_BYTES:,} bytes")
    with model_errors(folder, "Wav2Vec2CTCTokenizer"), quiet():
        theirs = Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True)
    rows = theirs.encoder
    if not {theirs.pad_token, theirs.unk_token} <= rows.keys() or not all(isinstance(r, int) for r in rows.values()):
        return {}
    silent = {theirs.pad_token, theirs.unk_token, theirs.bos_token, theirs.eos_token}
    tokens = sorted(rows.keys() - silent, key=rows.__getitem__)
    spellings = [WORD_BOUNDARY if token in (theirs.word_delimiter_token, " ") else token.lower() for token in tokens]
    if len(set(spellings)) < len(spellings):
        spellings = [WORD_BOUNDARY if token == theirs.word_delimiter_token else token for token in tokens]
    letters = {spelling: rows[token] for spelling, token in zip(spellings, tokens, strict=True)}
    return {"": rows[theirs.pad_token], UNKNOWN_SPELLING: rows[theirs.unk_token], **letters}


def vocabulary_tokenizer(folder: str | Path, vocabulary: dict[str, int]) -> TextTokenizer:
    """The tokenizer of what `read_vocabulary` found: Myna's own as it was saved, else one of these characters."""
    if (Path(folder) / VOCABULARY_FILE).is_file():
        return TextTokenizer.of_pieces(list(vocabulary)[2:])
    return TextTokenizer.load(folder)


def _settings(folder: Path, config: PreTrainedConfig) -> Wav2Vec2FeatureExtractor:
    """The checkpoint's own, else what the models with such a front end were trained with."""
    if (folder / FEATURES_FILE).is_file():
        return Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    return Wav2Vec2FeatureExtractor(return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer")


def _refuse_adapter(folder: str | Path, config: PreTrainedConfig) -> None:
    if getattr(config, "add_adapter", False):
        raise ModelError(
            f"{folder}: expected an encoder whose frames are those of its front end; received one with an adapter",
            "Pass a checkpoint with add_adapter=false.",
        )
