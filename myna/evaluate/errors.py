"""Where the errors are: slices by speaker, duration and language, and the worst utterances."""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from myna.metrics import Scores

if TYPE_CHECKING:
    from myna.samples import Utterance

DURATION_EDGES_SECONDS = (2, 5, 10, 15, 20, 30)
UNKNOWN = "unknown"


@dataclass(slots=True)
class Slice:
    """Sums over the utterances that have something in common."""

    scores: Scores = field(default_factory=Scores)
    audio_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The figures that tell slices apart; all of normalised text but `raw_wer`."""
        scores = self.scores
        return {
            "utterances": scores.utterances,
            "words": scores.normalized_words.reference_length,
            "audio_seconds": round(self.audio_seconds, 3),
            "wer": scores.normalized_words.rate,
            "cer": scores.normalized_characters.rate,
            "accuracy": scores.normalized_exact / max(1, scores.utterances),
            "raw_wer": scores.raw_words.rate,
        }


class Slices:
    """The same utterances sliced by speaker, by duration and by language."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Slice]] = {"speaker": {}, "duration": {}, "language": {}}

    def add(self, utterance: Utterance, scores: Scores) -> None:
        """Count one utterance in its slice of every kind."""
        keys = {
            "speaker": utterance.speaker_id or UNKNOWN,
            "duration": duration_bin(utterance.duration_seconds),
            "language": utterance.language or UNKNOWN,
        }
        for kind, key in keys.items():
            entry = self._tables[kind].setdefault(key, Slice())
            entry.scores += scores
            entry.audio_seconds += utterance.duration_seconds

    def as_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Kind, then slice; durations from short to long, the others from most to fewest words."""
        ordered = {
            kind: dict(sorted(table.items(), key=lambda item: -item[1].scores.normalized_words.reference_length))
            for kind, table in self._tables.items()
        }
        bins = [duration_bin(edge) for edge in (0, *DURATION_EDGES_SECONDS)]
        ordered["duration"] = {key: ordered["duration"][key] for key in bins if key in ordered["duration"]}
        return {kind: {key: entry.as_dict() for key, entry in table.items()} for kind, table in ordered.items()}


def duration_bin(duration_seconds: float) -> str:
    """The name of the bin: "0-2 s", "2-5 s", ..., "30+ s"; a bin holds its lower edge and not its upper one."""
    edges = (0, *DURATION_EDGES_SECONDS)
    position = bisect.bisect_right(edges, duration_seconds) - 1
    upper = f"-{edges[position + 1]}" if position + 1 < len(edges) else "+"
    return f"{edges[position]}{upper} s"


class WorstUtterances:
    """The utterances with the highest normalised WER, of equal ones those with more errors.

    Args:
        capacity: how many are kept.
    """

    def __init__(self, capacity: int = 50) -> None:
        self._capacity = capacity
        self._heap: list[tuple[float, int, str, dict[str, Any]]] = []

    def add(self, utterance: Utterance, hypothesis: str, scores: Scores) -> None:
        """Consider one utterance; those without an error are passed by."""
        words = scores.normalized_words
        if not words.errors:
            return
        row = {
            "utterance_id": utterance.utterance_id,
            "audio_path": utterance.audio_path,
            "offset_seconds": utterance.offset_seconds,
            "duration_seconds": utterance.duration_seconds,
            "speaker_id": utterance.speaker_id,
            "wer": words.rate,
            "errors": words.errors,
            "reference": utterance.transcript,
            "hypothesis": hypothesis,
        }
        heapq.heappush(self._heap, (words.rate, words.errors, utterance.utterance_id, row))
        if len(self._heap) > self._capacity:
            heapq.heappop(self._heap)

    def as_list(self) -> list[dict[str, Any]]:
        """Worst first."""
        return [entry[-1] for entry in sorted(self._heap, key=lambda entry: entry[:3], reverse=True)]
