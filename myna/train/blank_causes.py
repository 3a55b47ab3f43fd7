"""Why a CTC model may hear nothing: likely causes, each held against the facts of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from myna.data.checks import ctc_frames_needed
from myna.models.tokenizer import UNKNOWN_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.config import Config
    from myna.models.ctc import CTCProcessor
    from myna.models.parakeet_processor import ParakeetProcessor
    from myna.models.wav2vec2_processor import Wav2Vec2Processor
    from myna.samples import Utterance

# A fresh head learns first that blank is the most frequent token, and leaves that only then: after some hundreds of
# updates beside a pretrained encoder, after one or two thousand from scratch.
UPDATES_OF_SILENCE = {True: 500, False: 2000}  # by whether the model is pretrained
HIGH_RATES = {"full": 3e-4, "adapters": 3e-3}  # published recipes of pretrained encoders stay below
LOW_RATE = 1e-5  # a fresh head hardly moves below
CROWDED = 0.8  # of a clip's frames that its labels need
NOTICED_SHARE = 0.1  # of clips or labels: fewer explain no silence
SPOKEN_PER_SECOND = (1.0, 30.0)  # characters of any language: nobody speaks slower, or faster
SAMPLED = 500  # utterances that are looked at


@dataclass(frozen=True, slots=True)
class BlankFacts:
    """What a run is known to be like when it hears nothing.

    Attributes:
        pretrained: it starts from other weights.
        encoder_learns: some of the encoder's weights are trained.
        adapters: what is trained of the encoder is adapters.
        learning_rate: the encoder's highest, or the head's where the encoder does not learn.
        fp16: it computes in half precision.
        overflow_share: of the logged steps, those whose gradient was not finite.
        spoke_at: the last step at which it heard something; None if it never did.
        crowded_share: of the clips, those whose labels need more than `CROWDED` of the frames.
        unknown_share: of the labels, those that the tokenizer does not know.
        odd_share: of the clips, those whose text nobody could speak in their time.
        frame_seconds: length of an encoder frame.
    """

    pretrained: bool
    encoder_learns: bool
    adapters: bool
    learning_rate: float
    fp16: bool
    overflow_share: float = 0.0
    spoke_at: int | None = None
    crowded_share: float = 0.0
    unknown_share: float = 0.0
    odd_share: float = 0.0
    frame_seconds: float = 0.04


def likely_causes(facts: BlankFacts) -> list[str]:
    """What of the usual causes the facts speak for, with them and a remedy; [] when nothing does."""
    causes = []
    if facts.overflow_share > NOTICED_SHARE and facts.fp16:
        causes.append(
            f"half precision: {facts.overflow_share:.0%} of the logged gradients were not finite, and such steps "
            "change nothing. Set training.fp16=false, or bf16=true where the device has it."
        )
    elif facts.overflow_share > NOTICED_SHARE:
        causes.append(f"{facts.overflow_share:.0%} of the logged gradients were not finite. Lower the learning rate.")
    highest = HIGH_RATES["adapters" if facts.adapters else "full"]
    if facts.pretrained and facts.encoder_learns and facts.learning_rate > highest:
        causes.append(
            f"the learning rate, {facts.learning_rate:g}, is high for a pretrained encoder, which forgets what it "
            f"knew. Try training.learning_rate={highest / 3:g}."
        )
    elif facts.spoke_at is not None and not facts.overflow_share:
        causes.append(f"it spoke until step {facts.spoke_at}: training became unstable. Halve the learning rate.")
    if facts.learning_rate < LOW_RATE:
        causes.append(f"the learning rate, {facts.learning_rate:g}, hardly moves a fresh head. Raise it tenfold.")
    if not facts.encoder_learns:
        causes.append(
            "the encoder is frozen: if it was never trained to recognise speech, a head alone learns little. "
            "Set model.freeze_encoder=false, or freeze fewer layers by model.freeze_layers."
        )
    if facts.unknown_share > NOTICED_SHARE:
        causes.append(
            f"the tokenizer does not know {facts.unknown_share:.0%} of the labels: it belongs to another language or "
            "spelling. Learn a new one from these transcripts."
        )
    if facts.crowded_share > NOTICED_SHARE:
        causes.append(
            f"{facts.crowded_share:.0%} of the clips have nearly as many labels as encoder frames of "
            f"{1000 * facts.frame_seconds:.0f} ms. Use tokenizer.kind=bpe, or a model with shorter frames."
        )
    if facts.odd_share > NOTICED_SHARE:
        causes.append(
            f"{facts.odd_share:.0%} of the clips have texts that nobody speaks in their time: transcripts may belong "
            "to other recordings. Listen to some."
        )
    return causes


def texts_against_audio(
    utterances: Sequence[Utterance], processor: CTCProcessor | Wav2Vec2Processor | ParakeetProcessor
) -> dict[str, float]:
    """How labels fit their clips and the tokenizer, under the names of `BlankFacts`; looks at some hundreds of them."""
    sample = utterances[:: max(1, len(utterances) // SAMPLED)]
    labels = [processor.labels(utterance) for utterance in sample]
    seconds = np.array([utterance.duration_seconds for utterance in sample])
    needed = np.array([ctc_frames_needed(row) for row in labels])
    pace = np.array([len(utterance.text) for utterance in sample]) / seconds
    slowest, fastest = SPOKEN_PER_SECOND
    return {
        "crowded_share": float(np.mean(needed > CROWDED * seconds / processor.frame_seconds)),
        "unknown_share": sum(row.count(UNKNOWN_ID) for row in labels) / max(1, sum(map(len, labels))),
        "odd_share": float(np.mean((pace < slowest) | (pace > fastest))),
        "frame_seconds": processor.frame_seconds,
    }


def updates_of_silence(config: Config, warmup_updates: int) -> int:
    """Until which update a model may hear nothing without anything being wrong."""
    return warmup_updates + UPDATES_OF_SILENCE[bool(config.model.pretrained)]
