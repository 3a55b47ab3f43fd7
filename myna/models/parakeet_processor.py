"""Parakeet's input, its own kind of log-mel, and its vocabulary of BPE pieces."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from tokenizers import Tokenizer

from myna.audio.features import ParakeetLogMel
from myna.errors import ModelError
from myna.files import write_atomically
from myna.models.ctc import FEATURES_FILE, Count, ctc_refusal
from myna.models.folders import CONFIG_FILE
from myna.models.metadata import read_json
from myna.models.tokenizer import BLANK, TOKENIZER_FILE, UNKNOWN, TextTokenizer

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from myna.samples import AudioClip, RefusalReason, Utterance

MAX_TOKENIZER_BYTES = 10_000_000
THEIR_NAMES = {"n_mels": "feature_size", "sample_rate_hz": "sampling_rate"}  # of ParakeetFeatureExtractor's settings


class ParakeetProcessor:
    """Features and the labels of the normalised text.

    Args:
        tokenizer: output units.
        log_mel: front end.
        subsampling_factor: feature frames of an encoder frame, a power of 2.
    """

    def __init__(self, tokenizer: TextTokenizer, log_mel: ParakeetLogMel, subsampling_factor: int = 8) -> None:
        self.tokenizer = tokenizer
        self.log_mel = log_mel
        self.subsampling_factor = subsampling_factor
        self.sample_rate_hz = log_mel.sample_rate_hz

    @classmethod
    def from_pretrained(cls, folder: str | Path, tokenizer: TextTokenizer | None = None) -> ParakeetProcessor:
        """Read a checkpoint's settings, and its vocabulary when no tokenizer is given.

        Raises:
            ModelError: the folder is no such checkpoint, or has no vocabulary that can be used.
        """
        folder = Path(folder)
        config = read_json(folder / CONFIG_FILE, "Parakeet's configuration")
        settings = read_json(folder / FEATURES_FILE, "the settings of ParakeetFeatureExtractor")
        names = {field.name: THEIR_NAMES.get(field.name, field.name) for field in fields(ParakeetLogMel)}
        try:
            given = {name: settings[theirs] for name, theirs in names.items() if theirs in settings}
            log_mel = TypeAdapter(ParakeetLogMel).validate_python(given)
            encoder = config["encoder_config"]
            factor = int(encoder["subsampling_factor"])
            if (encoder["subsampling_conv_kernel_size"], encoder["subsampling_conv_stride"]) != (3, 2):
                raise ValueError("another front end than convolutions of 3 with stride 2")
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder}: expected a Parakeet folder; received {error!r}",
                "Pass one with config.json of ParakeetForCTC.",
            ) from error
        if tokenizer is None:
            found = read_tokenizer(folder)
            if found is None:
                raise ModelError(
                    f"{folder}: expected a vocabulary of BPE pieces in {TOKENIZER_FILE}; there is none",
                    "Fine-tune it first: `myna train --config parakeet-finetune model.pretrained=...`.",
                )
            tokenizer = found[0]
        return cls(tokenizer, log_mel, factor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, as transformers reads it, and `tokenizer.json`."""
        settings = {THEIR_NAMES.get(name, name): value for name, value in asdict(self.log_mel).items()}
        values = {"feature_extractor_type": "ParakeetFeatureExtractor", **settings}
        write_atomically(Path(folder) / FEATURES_FILE, json.dumps(values, indent=2) + "\n")
        self.tokenizer.save(folder)

    @property
    def frame_seconds(self) -> float:
        """Length of an encoder frame: 80 ms in the published models."""
        return self.subsampling_factor * self.log_mel.hop_length / self.sample_rate_hz

    def num_frames(self, num_features: Count) -> Count:
        """Encoder frames for so many feature frames, of each length in a tensor: a power of 2 fewer, rounded up."""
        return (num_features + self.subsampling_factor - 1) // self.subsampling_factor

    def features(self, clip: AudioClip) -> Tensor:
        """Features (T, n_mels) float32 of a clip at `sample_rate_hz`."""
        return self.log_mel(clip)

    def labels(self, utterance: Utterance) -> list[int]:
        """Token ids of the normalised text."""
        return self.tokenizer.encode(utterance.text)

    def padded_seconds(self, duration_seconds: float) -> float:
        """What a clip of this length costs: its length."""
        return duration_seconds

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        """EMPTY_TRANSCRIPT, or CTC_INFEASIBLE when there are fewer encoder frames than labels + adjacent repeats."""
        num_features = self.log_mel.num_frames(round(utterance.duration_seconds * self.sample_rate_hz))
        return ctc_refusal(utterance, self.labels(utterance), self.num_frames(num_features))


def read_tokenizer(folder: Path) -> tuple[TextTokenizer, list[int]] | None:
    """A checkpoint's tokenizer in our order, blank and unknown first, and the row of its head that each token has.

    Returns:
        None when the folder has no tokenizer of BPE pieces with an unknown token, or the configuration no blank.

    Raises:
        ModelError: there is one that cannot be read.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    blank_row = read_json(folder / CONFIG_FILE, "Parakeet's configuration").get("pad_token_id")
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ValueError(f"more than {MAX_TOKENIZER_BYTES:,} bytes")
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model = values["model"]
        unknown, rows = model["unk_token"], model["vocab"]
        if model["type"] != "BPE" or unknown not in rows or not isinstance(blank_row, int):
            return None
        special = {token["content"] for token in values["added_tokens"] if token["special"]} | {unknown}
        pieces = sorted((piece for piece in rows if piece not in special and rows[piece] != blank_row), key=rows.get)
        order = [BLANK, UNKNOWN, *pieces]
        model |= {"unk_token": UNKNOWN, "vocab": {piece: index for index, piece in enumerate(order)}}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        values["added_tokens"] = [
            {"id": index, "content": piece, "special": True, **flags} for index, piece in enumerate(order[:2])
        ]
        values |= {"post_processor": None, "truncation": None, "padding": None}
        tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(values)))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path}: expected a tokenizer; received {error}", "Fetch the checkpoint anew.") from error
    return tokenizer, [blank_row, rows[unknown], *(rows[piece] for piece in pieces)]
