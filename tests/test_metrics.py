from __future__ import annotations

import csv
import random
from pathlib import Path

import jiwer
import pytest
import sacrebleu

from myna.metrics import (
    FORGET_TOKENIZED_EVERY,
    Confusions,
    ErrorCounts,
    NgramOverlap,
    ScoreAccumulator,
    Scores,
    align,
    count_errors,
    score,
)
from myna.text import normalize, tidy

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
WORDS = ["ma", "má", "mà", "mả", "mã", "mạ", "don't", "C++", "你好", "नमस्ते", "ok.", "Hà", "Nội"]


def disturbed(words: list[str], draw: random.Random) -> list[str]:
    kept = [draw.choice(WORDS) if draw.random() < 0.2 else word for word in words if draw.random() > 0.15]
    for _ in range(draw.randrange(3)):
        kept.insert(draw.randrange(len(kept) + 1), draw.choice(WORDS))
    return kept


def random_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        reference = [draw.choice(WORDS) for _ in range(draw.randrange(1, 15))]
        pairs.append((" ".join(reference), " ".join(disturbed(reference, draw))))
    return pairs


def real_pairs(language: str) -> list[tuple[str, str]]:
    manifest = CORPORA / f"common_voice_{language}" / "metadata.csv"
    if not CORPORA.is_dir():
        pytest.skip(f"the real transcripts are not at {CORPORA}")
    with manifest.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in rows[0] if name in ("transcription", "transcript", "sentence", "text"))
    draw = random.Random(language)
    return [(row[column], " ".join(disturbed(row[column].split(), draw))) for row in rows]


def counts_of(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    return ErrorCounts(output.hits, output.substitutions, output.deletions, output.insertions)


def test_known_counts() -> None:
    reference = ["the", "cat", "sat", "on", "the", "mat"]
    counts = count_errors(reference, ["the", "bat", "sat", "the", "mat", "again", "now"])
    assert counts == ErrorCounts(hits=4, substitutions=1, deletions=1, insertions=2)
    assert (counts.errors, counts.reference_length) == (4, 6)
    assert counts.rate == pytest.approx(4 / 6)
    assert counts.shares() == {"substitutions": 0.25, "deletions": 0.25, "insertions": 0.5}
    assert counts + counts == ErrorCounts(8, 2, 2, 4)


def test_empty_reference_counts_its_insertions() -> None:
    assert count_errors([], ["a", "b"]) == ErrorCounts(insertions=2)
    assert ErrorCounts(insertions=2).rate == jiwer.wer("", "a b") == 2.0
    assert ErrorCounts().rate == 0.0
    assert sum(ErrorCounts().shares().values()) == 0.0
    both = count_errors([], ["a"]) + count_errors(["a"], ["a"])
    assert both.rate == jiwer.wer(["", "a"], ["a", "a"]) == 1.0


def test_spaces_are_characters() -> None:
    assert count_errors("a b", "ab").rate == jiwer.cer("a b", "ab") == pytest.approx(1 / 3)


def test_align_gives_blocks() -> None:
    assert align(["a", "b", "c"], ["a", "x", "c", "d"]) == [
        ("equal", 0, 1, 0, 1),
        ("replace", 1, 2, 1, 2),
        ("equal", 2, 3, 2, 3),
        ("insert", 3, 3, 3, 4),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_jiwer_on_random_text(seed: int) -> None:
    for reference, hypothesis in random_pairs(400, seed):
        words = count_errors(reference.split(), hypothesis.split())
        assert words == counts_of(jiwer.process_words(reference, hypothesis))
        assert count_errors(reference, hypothesis) == counts_of(jiwer.process_characters(reference, hypothesis))


@pytest.mark.parametrize("language", ["en", "vi", "tr", "es"])
def test_sums_equal_jiwer_and_sacrebleu_on_real_transcripts(language: str) -> None:
    pairs = real_pairs(language)
    accumulator = ScoreAccumulator()
    for reference, hypothesis in pairs:
        accumulator.add(reference, hypothesis, language)
    forms = {
        "raw": [(tidy(reference), tidy(hypothesis)) for reference, hypothesis in pairs],
        "normalized": [(normalize(r, language), normalize(h, language)) for r, h in pairs],
    }
    summary = accumulator.summary()
    for form, texts in forms.items():
        references, hypotheses = [list(column) for column in zip(*texts, strict=True)]
        words = jiwer.process_words(references, hypotheses)
        assert getattr(accumulator.totals, f"{form}_words") == counts_of(words)
        assert summary[form]["wer"] == pytest.approx(words.wer, abs=1e-12)
        assert summary[form]["cer"] == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)
        assert summary[form]["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references], force=True).score
        assert summary[form]["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
        exact = sum(reference == hypothesis for reference, hypothesis in texts)
        assert summary[form]["accuracy"] == exact / len(pairs)


def test_overlap_survives_forgetting_what_it_tokenised() -> None:
    pairs = random_pairs(2 * FORGET_TOKENIZED_EVERY + 1, seed=5)
    overlap = NgramOverlap()
    for pair in pairs:
        overlap.add(*pair)
    references, hypotheses = [list(column) for column in zip(*pairs, strict=True)]
    expected = sacrebleu.corpus_bleu(hypotheses, [references], force=True).score
    assert overlap.summary() == {
        "bleu": expected,
        "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
    }
    assert overlap.summary()["bleu"] == expected  # asking twice changes nothing


def test_raw_and_normalised_differ_by_case_and_punctuation() -> None:
    scores = score("Xin chào, Hà Nội!", "xin chào hà nội", "vi")
    assert scores.normalized_words == ErrorCounts(hits=4)
    assert scores.raw_words == ErrorCounts(substitutions=4)
    assert (scores.utterances, scores.raw_exact, scores.normalized_exact) == (1, 0, 1)


def test_language_decides_the_normalisation() -> None:
    assert score("IĞDIR", "ığdır", "tr").normalized_exact == 1
    assert score("IĞDIR", "ığdır", "en").normalized_exact == 0


def test_scores_add_up() -> None:
    pairs = random_pairs(50, seed=6)
    accumulator = ScoreAccumulator()
    parts = [accumulator.add(*pair) for pair in pairs]
    assert sum(parts, Scores()) == accumulator.totals
    assert parts == [score(*pair) for pair in pairs]


def test_empty_accumulator_has_a_summary() -> None:
    summary = ScoreAccumulator().summary()
    assert summary["utterances"] == 0
    assert summary["normalized"]["wer"] == summary["raw"]["bleu"] == 0.0
    assert summary["confusions"]["substitutions"] == []


def test_empty_transcripts_are_scored() -> None:
    accumulator = ScoreAccumulator()
    accumulator.add("…", "noise")
    accumulator.add("speech", "")
    assert accumulator.totals.normalized_words == ErrorCounts(deletions=1, insertions=1)


def test_top_confusions() -> None:
    accumulator = ScoreAccumulator()
    for _ in range(3):
        accumulator.add("The cat sat", "the bat sat")
    accumulator.add("the cat sat", "the hat sat down")
    accumulator.add("the cat sat", "cat sat")
    assert accumulator.summary(num_confusions=1)["confusions"] == {
        "complete": True,
        "substitutions": [{"reference": "cat", "hypothesis": "bat", "count": 3}],
        "deletions": [{"word": "the", "count": 1}],
        "insertions": [{"word": "down", "count": 1}],
    }


def test_confusions_stay_small_and_keep_the_frequent() -> None:
    confusions = Confusions(capacity=100)
    for number in range(5_000):
        confusions.add(["frequent", "a"], ["often", f"rare{number}"])
        assert len(confusions.substitutions) <= 100
    assert confusions.substitutions.most_common(1) == [(("frequent", "often"), 5_000)]
    assert not confusions.complete
