"""Scoring of 100,000 utterances: Myna against jiwer in the same run, and memory on the way.

Prints one JSON line. `one_form` is the same work as `jiwer`: WER, CER and their counts of texts as they are.
`raw_and_normalized` is what validation streams, normalisation included; `with_confusions_bleu_chrf` is what
evaluation streams.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator

import jiwer

from myna.metrics import ErrorCounts, ScoreAccumulator, Scores, count_errors, score

NUM_UTTERANCES = 100_000
VOCABULARY_SIZE = 20_000


def pairs(count: int) -> Iterator[tuple[str, str]]:
    """Sentences of 3 to 18 words with about 15 % of the words wrong; the same ones every time."""
    draw = random.Random(0)
    letters = "aăâbcdđeêghiklmnoôơpqrstuưvxyáàảãạ"
    vocabulary = ["".join(draw.choices(letters, k=draw.randrange(2, 8))) for _ in range(VOCABULARY_SIZE)]
    for _ in range(count):
        reference = draw.choices(vocabulary, k=draw.randrange(3, 19))
        heard = [draw.choice(vocabulary) if draw.random() < 0.1 else word for word in reference]
        heard = [word for word in heard if draw.random() > 0.05] or reference
        yield " ".join(reference).capitalize() + ".", " ".join(heard)


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def timed_everything() -> tuple[float, dict[int, float]]:
    accumulator, peaks = ScoreAccumulator(), {}
    start = time.process_time()
    for number, (reference, hypothesis) in enumerate(pairs(NUM_UTTERANCES), start=1):
        accumulator.add(reference, hypothesis)
        if number in (NUM_UTTERANCES // 10, NUM_UTTERANCES):
            peaks[number] = peak_mb()
    accumulator.summary()
    return time.process_time() - start, peaks


def timed_scores() -> tuple[float, dict[int, float]]:
    totals, peaks = Scores(), {}
    start = time.process_time()
    for number, (reference, hypothesis) in enumerate(pairs(NUM_UTTERANCES), start=1):
        totals += score(reference, hypothesis)
        if number in (NUM_UTTERANCES // 10, NUM_UTTERANCES):
            peaks[number] = peak_mb()
    return time.process_time() - start, peaks


def timed_one_form() -> tuple[float, ErrorCounts, ErrorCounts]:
    words = characters = ErrorCounts()
    start = time.process_time()
    for reference, hypothesis in pairs(NUM_UTTERANCES):
        words += count_errors(reference.split(), hypothesis.split())
        characters += count_errors(reference, hypothesis)
    return time.process_time() - start, words, characters


def timed_jiwer() -> tuple[float, ErrorCounts, ErrorCounts]:
    start = time.process_time()
    references, hypotheses = [list(column) for column in zip(*pairs(NUM_UTTERANCES), strict=True)]
    found = [jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)]
    seconds = time.process_time() - start
    words, characters = [ErrorCounts(o.hits, o.substitutions, o.deletions, o.insertions) for o in found]
    return seconds, words, characters


def main() -> None:
    start = time.process_time()
    for _ in pairs(NUM_UTTERANCES):
        pass
    making_pairs = time.process_time() - start
    scores_seconds, scores_peaks = timed_scores()
    everything_seconds, everything_peaks = timed_everything()
    ours_seconds, *ours = timed_one_form()
    jiwer_seconds, *theirs = timed_jiwer()
    print(
        json.dumps(
            {
                "bench": "scoring",
                "utterances": NUM_UTTERANCES,
                "one_form_cpu_seconds": round(ours_seconds - making_pairs, 2),
                "jiwer_cpu_seconds": round(jiwer_seconds - making_pairs, 2),
                "counts_equal_jiwer": ours == theirs,
                "raw_and_normalized_cpu_seconds": round(scores_seconds - making_pairs, 2),
                "raw_and_normalized_peak_mb": scores_peaks,
                "with_confusions_bleu_chrf_cpu_seconds": round(everything_seconds - making_pairs, 2),
                "with_confusions_bleu_chrf_peak_mb": everything_peaks,
                "jiwer_peak_mb": peak_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
