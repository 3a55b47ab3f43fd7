"""What is known about families of models, as data: rules for when each does well, every one with its source.

The points weigh the rules against each other; they are this project's judgement, the figures are their sources' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

Latency = Literal["offline", "streaming"]
# How much of the language (or its close relatives) the published models heard: "rich" is a thousand hours or more of
# transcribed speech, "poor" is less, "unseen" is none.
LanguageResources = Literal["rich", "poor", "unseen"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that can be trained here."""

    name: str  # a known size, or the name of a preset's family
    family: str
    recipe: str
    own: bool = False  # trained from scratch on the data at hand
    lora_rank: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """Points for a family under conditions, all of which must hold."""

    family: str
    points: int
    because: str
    source: str
    hours: tuple[float, float] = (0, inf)  # of transcribed speech, from and below
    latency: Latency | None = None
    language: tuple[LanguageResources, ...] = ("rich", "poor", "unseen")

    def holds(self, family: str, hours: float, latency: Latency, language: LanguageResources) -> bool:
        """Whether all conditions are met."""
        return (
            family == self.family
            and self.hours[0] <= hours < self.hours[1]
            and self.latency in (None, latency)
            and language in self.language
        )


# The largest first: of each family the first that fits is advised.
CANDIDATES = (
    Candidate("wav2vec2-xls-r-1b", "wav2vec2", "fine-tune with CTC, convolutional front end frozen"),
    Candidate("wav2vec2-xls-r-300m", "wav2vec2", "fine-tune with CTC, convolutional front end frozen"),
    Candidate("whisper-large-v3", "whisper", "fine-tune LoRA adapters of rank 32", lora_rank=32),
    Candidate("whisper-small", "whisper", "fine-tune all weights"),
    Candidate("whisper-tiny", "whisper", "fine-tune all weights"),
    Candidate("conformer", "conformer", "train from scratch with CTC", own=True),
    Candidate("transformer", "transformer", "train from scratch with CTC", own=True),
)

_WAV2VEC2 = "Baevski et al. 2020, arXiv 2006.11477"
_XLS_R = "Babu et al. 2021, arXiv 2111.09296"
_UNSEEN = "Rouditchenko et al. 2023, arXiv 2305.12606"
_WHISPER = "Radford et al. 2022, arXiv 2212.04356"
_EXAMPLES = "transformers: examples/pytorch/speech-recognition/README.md"
_ESPNET_100 = "ESPnet librispeech_100, huggingface.co/pyf98/librispeech_100h_conformer"
_ICEFALL = "icefall LibriSpeech, huggingface.co/Zengwei/icefall-asr-librispeech-conformer-ctc3-2022-11-27"
_WENET = "WeNet examples/aishell/s0/README.md and runtime/gpu/README.md"
_STREAMING = "SpeechBrain, huggingface.co/speechbrain/asr-streaming-conformer-librispeech"

RULES = (
    Rule(
        "wav2vec2",
        4,
        "self-supervised pre-training needs few transcripts: ten minutes of them gave 4.8 / 8.2 % WER on LibriSpeech "
        "clean / other, with a language model and 53,000 h of unlabelled English",
        _WAV2VEC2,
        hours=(0, 10),
    ),
    Rule(
        "wav2vec2",
        3,
        "XLSR-53 on about 6 h of Turkish: 35 % WER after 1 h 20 min on one V100, without a language model",
        _EXAMPLES,
        hours=(1, 100),
    ),
    Rule(
        "wav2vec2",
        2,
        "heard nearly half a million hours in 128 languages, with error rates 14 to 34 % below earlier work's",
        _XLS_R,
        language=("poor", "unseen"),
    ),
    Rule(
        "wav2vec2",
        1,
        "which of XLS-R and Whisper adapts better follows the hours of the language and its relatives that each heard; "
        "XLS-R needed no transcripts of them",
        _UNSEEN,
        language=("unseen",),
    ),
    Rule(
        "wav2vec2",
        -4,
        "its attention looks at the whole clip, so that partial results mean computing everything again",
        _WAV2VEC2,
        latency="streaming",
    ),
    Rule(
        "whisper",
        5,
        "knows the language already; fine-tuning starts from a working recogniser with punctuation",
        _WHISPER,
        hours=(0, 1000),
        language=("rich",),
    ),
    Rule(
        "whisper",
        3,
        "Whisper-small on Common Voice Hindi: 32.6 % WER after 8 h on one V100",
        _EXAMPLES,
        hours=(3, inf),
        language=("rich", "poor"),
    ),
    Rule(
        "whisper",
        -2,
        "its WER in a language halves for every 16 times as much of it in the training data; with none it starts anew",
        _WHISPER,
        language=("unseen",),
    ),
    Rule(
        "whisper",
        -5,
        "its encoder hears windows of 30 s: a partial result is a new window",
        _WHISPER,
        latency="streaming",
    ),
    Rule(
        "conformer",
        -4,
        "from scratch it knows nothing but these hours; even 100 h of read English gave 6.5 % WER (clean) where 960 h "
        "gave 3.1 %",
        f"{_ESPNET_100}; {_ICEFALL}",
        hours=(0, 50),
    ),
    Rule(
        "conformer",
        2,
        "100 h of read English gave 6.5 / 17.3 % WER (clean / other, beam 20)",
        _ESPNET_100,
        hours=(50, 500),
    ),
    Rule(
        "conformer",
        5,
        "960 h of read English gave 3.1 % WER (clean) by CTC decoding alone",
        _ICEFALL,
        hours=(500, inf),
    ),
    Rule(
        "conformer",
        5,
        "streams by attention in chunks: CER 5.19 % with full context, 5.81 % in chunks of 640 ms, 95 % of "
        "answers within 110 ms at 50 streams",
        _WENET,
        latency="streaming",
    ),
    Rule(
        "conformer",
        2,
        "one model serves offline and live: 2.72 % WER with full context, 3.31 % in chunks of 480 ms",
        _STREAMING,
        latency="streaming",
    ),
    Rule(
        "transformer",
        -5,
        "from scratch it knows nothing but these hours, and lacks the convolutions that made the Conformer better on "
        "the same ones",
        "Gulati et al. 2020, arXiv 2005.08100",
        hours=(0, 500),
    ),
    Rule(
        "transformer",
        2,
        "enough hours to learn from alone; the simplest network to export and to run",
        "Gulati et al. 2020, arXiv 2005.08100",
        hours=(500, inf),
    ),
    Rule(
        "transformer",
        4,
        "streams by attention in chunks, as the Conformer does",
        _WENET,
        latency="streaming",
    ),
)
