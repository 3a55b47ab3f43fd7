"""Error rates of transcripts, counted one utterance at a time in flat memory.

Words are what stands between spaces; WER says little for scripts written without them (Thai, Khmer, Chinese):
read CER there. Characters are Unicode code points, and spaces count as characters, as in jiwer.

Every figure exists twice: *raw* compares transcripts as published (`myna.text.tidy`: case and punctuation
count), *normalised* compares what was said (`myna.text.normalize`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Levenshtein

from myna.text import normalize, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CONFUSIONS = 20_000  # distinct entries of one table
FORGET_TOKENIZED_EVERY = 1_000  # utterances

Block = tuple[str, int, int, int, int]  # tag, reference start and end, hypothesis start and end


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Edit counts of words or characters; they add up over utterances."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Words or characters of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word or character: WER or CER, above 1 when much is inserted.

        An empty reference counts as one word, as in jiwer: the rate is then the number of insertions.
        """
        return self.errors / max(1, self.reference_length)

    def shares(self) -> dict[str, float]:
        """What part of the errors each kind has; all 0 when there are none."""
        total = max(1, self.errors)
        return {kind: getattr(self, kind) / total for kind in ("substitutions", "deletions", "insertions")}

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """Edit counts of one utterance or of the sum of many."""

    utterances: int = 0
    raw_exact: int = 0  # utterances without an error
    normalized_exact: int = 0
    raw_words: ErrorCounts = ErrorCounts()
    raw_characters: ErrorCounts = ErrorCounts()
    normalized_words: ErrorCounts = ErrorCounts()
    normalized_characters: ErrorCounts = ErrorCounts()

    def __add__(self, other: Scores) -> Scores:
        return Scores(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def summary(self) -> dict[str, Any]:
        """Raw and normalised rates, accuracy (share of utterances without an error) and counts."""
        total = max(1, self.utterances)
        return {
            "utterances": self.utterances,
            "raw": _rates(self.raw_words, self.raw_characters, self.raw_exact / total),
            "normalized": _rates(self.normalized_words, self.normalized_characters, self.normalized_exact / total),
        }


def score(reference: str, hypothesis: str, language: str = "") -> Scores:
    """Scores of one utterance, to be added up.

    Args:
        reference: the transcript as published.
        hypothesis: the recogniser's text.
        language: ISO 639 code for the normalisation.
    """
    return _scores(_tidied(reference, hypothesis), _normalized(reference, hypothesis, language))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Block]:
    """The fewest edits that turn reference into hypothesis (Levenshtein).

    Args:
        reference: words, or a string for its characters.
        hypothesis: likewise.

    Returns:
        Blocks tagged equal, replace, delete or insert; replaced blocks are equally long on both sides.
    """
    blocks = Levenshtein.opcodes(reference, hypothesis)
    return [(b.tag, b.src_start, b.src_end, b.dest_start, b.dest_end) for b in blocks]


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    """Edit counts of one utterance, over words or over the characters of a string."""
    if reference == hypothesis:
        return ErrorCounts(hits=len(reference))
    edits = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    substitutions, deletions = edits["replace"], edits["delete"]
    hits = len(reference) - substitutions - deletions
    return ErrorCounts(hits, substitutions, deletions, edits["insert"])


class ScoreAccumulator:
    """Everything an evaluation reports of texts, streamed: memory does not grow with the utterances.

    Args:
        max_confusions: distinct entries a table of confusions may hold.
    """

    def __init__(self, max_confusions: int = MAX_CONFUSIONS) -> None:
        self.totals = Scores()
        self.confusions = Confusions(max_confusions)
        self._raw_overlap = NgramOverlap()
        self._normalized_overlap = NgramOverlap()

    def add(self, reference: str, hypothesis: str, language: str = "") -> Scores:
        """Count one utterance.

        Args:
            reference: the transcript as published.
            hypothesis: the recogniser's text.
            language: ISO 639 code for the normalisation.

        Returns:
            The scores of this utterance alone.
        """
        raw, normalized = _tidied(reference, hypothesis), _normalized(reference, hypothesis, language)
        scores = _scores(raw, normalized)
        self.totals += scores
        self.confusions.add(normalized[0].split(), normalized[1].split())
        self._raw_overlap.add(*raw)
        self._normalized_overlap.add(*normalized)
        return scores

    def summary(self, num_confusions: int = 50) -> dict[str, Any]:
        """All figures as plain data: rates as shares of 1, BLEU and chrF from 0 to 100 as sacrebleu prints them."""
        summary = self.totals.summary()
        summary["raw"] |= self._raw_overlap.summary()
        summary["normalized"] |= self._normalized_overlap.summary()
        summary["confusions"] = self.confusions.summary(num_confusions)
        return summary


class Confusions:
    """The most frequent word errors. Once a table is full its rarest half is forgotten.

    Args:
        capacity: distinct entries a table may hold.
    """

    def __init__(self, capacity: int = MAX_CONFUSIONS) -> None:
        self.substitutions: Counter[tuple[str, str]] = Counter()  # (reference word, hypothesis word)
        self.deletions: Counter[str] = Counter()
        self.insertions: Counter[str] = Counter()
        self.complete = True  # False: counts are lower bounds, since something was forgotten
        self._capacity = capacity

    def add(self, reference: Sequence[str], hypothesis: Sequence[str]) -> None:
        """Count the errors between two word sequences."""
        if reference == hypothesis:
            return
        for tag, start, end, other_start, other_end in align(reference, hypothesis):
            if tag == "replace":
                pairs = zip(reference[start:end], hypothesis[other_start:other_end], strict=True)
                self.substitutions.update(pairs)
            elif tag == "delete":
                self.deletions.update(reference[start:end])
            elif tag == "insert":
                self.insertions.update(hypothesis[other_start:other_end])
        self.substitutions = self._bounded(self.substitutions)
        self.deletions = self._bounded(self.deletions)
        self.insertions = self._bounded(self.insertions)

    def summary(self, num_confusions: int) -> dict[str, Any]:
        """The `num_confusions` most frequent of each kind with their counts, most frequent first."""
        return {
            "complete": self.complete,
            "substitutions": [
                {"reference": heard_as[0], "hypothesis": heard_as[1], "count": count}
                for heard_as, count in self.substitutions.most_common(num_confusions)
            ],
            "deletions": _counted(self.deletions, num_confusions),
            "insertions": _counted(self.insertions, num_confusions),
        }

    def _bounded(self, table: Counter[Any]) -> Counter[Any]:
        if len(table) <= self._capacity:
            return table
        self.complete = False
        return Counter(dict(table.most_common(self._capacity // 2)))


class NgramOverlap:
    """BLEU and chrF of a corpus from running sums of sacrebleu's statistics, with its default settings."""

    def __init__(self) -> None:
        self._sums: dict[str, list[int]] = {}
        self._utterances = 0

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        return {"bleu": BLEU(force=True), "chrf": CHRF()}

    def add(self, reference: str, hypothesis: str) -> None:
        """Add the statistics of one utterance."""
        for name, metric in self._metrics.items():
            # sacrebleu offers corpus scores of whole lists only; its statistics are the sums behind them.
            (statistics,) = metric._extract_corpus_statistics([hypothesis], [[reference]])
            sums = self._sums.get(name) or [0] * len(statistics)
            self._sums[name] = [total + value for total, value in zip(sums, statistics, strict=True)]
        self._utterances += 1
        if self._utterances % FORGET_TOKENIZED_EVERY == 0:  # sacrebleu remembers 131,072 tokenised texts
            tokenizer = self._metrics["bleu"].tokenizer
            for remembering in (tokenizer, tokenizer._post_tokenizer):
                vars(type(remembering))["__call__"].cache_clear()

    def summary(self) -> dict[str, float]:
        """Both scores, from 0 to 100; 0 when nothing was added."""
        if not self._sums:
            return {"bleu": 0.0, "chrf": 0.0}
        return {
            name: metric._compute_score_from_stats(list(self._sums[name])).score
            for name, metric in self._metrics.items()
        }


def _tidied(reference: str, hypothesis: str) -> tuple[str, str]:
    return tidy(reference), tidy(hypothesis)


def _normalized(reference: str, hypothesis: str, language: str) -> tuple[str, str]:
    return normalize(reference, language), normalize(hypothesis, language)


def _scores(raw: tuple[str, str], normalized: tuple[str, str]) -> Scores:
    return Scores(
        utterances=1,
        raw_exact=int(raw[0] == raw[1]),
        normalized_exact=int(normalized[0] == normalized[1]),
        raw_words=count_errors(raw[0].split(), raw[1].split()),
        raw_characters=count_errors(*raw),
        normalized_words=count_errors(normalized[0].split(), normalized[1].split()),
        normalized_characters=count_errors(*normalized),
    )


def _rates(words: ErrorCounts, characters: ErrorCounts, accuracy: float) -> dict[str, Any]:
    return {
        "wer": words.rate,
        "cer": characters.rate,
        "accuracy": accuracy,
        "words": asdict(words) | {"reference": words.reference_length, "shares": words.shares()},
        "characters": asdict(characters) | {"reference": characters.reference_length},
    }


def _counted(table: Counter[str], number: int) -> list[dict[str, Any]]:
    return [{"word": word, "count": count} for word, count in table.most_common(number)]
