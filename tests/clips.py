"""A few short clips of noise, and a processor that is quick."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from myna.audio.features import LogMel
from myna.samples import RefusalReason, Utterance

SECONDS = (0.5, 0.8, 0.6, 1.2, 1.0, 0.7, 0.9)


class SmallProcessor:
    """Log-mels and code points; refuses clips under `shortest_seconds`."""

    sample_rate_hz = 16_000

    def __init__(self, shortest_seconds: float = 0.0) -> None:
        self.features = LogMel(n_mels=16)
        self.shortest_seconds = shortest_seconds

    def labels(self, utterance: Utterance) -> list[int]:
        return [ord(char) for char in utterance.text]

    def padded_seconds(self, duration_seconds: float) -> float:
        return duration_seconds

    def refusal(self, utterance: Utterance) -> tuple[RefusalReason, str] | None:
        short = utterance.duration_seconds < self.shortest_seconds
        return (RefusalReason.TOO_SHORT, "") if short else None

    def save_pretrained(self, folder: str | Path) -> None:
        raise AssertionError("nothing here saves")


def write_clips(folder: Path) -> list[Utterance]:
    """Seven utterances in wav files of a folder."""
    rng = np.random.default_rng(0)
    made = []
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000)
        made.append(Utterance(f"id{number}", str(path), "Ab", "ab" * (number + 1), seconds, "train"))
    return made
