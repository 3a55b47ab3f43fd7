"""Known answers of a teacher's distributions and of the divergence from them; what a student must share with it."""

from __future__ import annotations

import math

import pytest
import torch

from myna.audio.features import LogMel, ParakeetLogMel
from myna.errors import ModelError
from myna.models.ctc import CTCProcessor
from myna.models.distillation import divergence, hold_in, refuse_unlike, taught_by
from myna.models.parakeet_processor import ParakeetProcessor
from myna.models.tokenizer import TextTokenizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor
from myna.models.whisper_processor import WhisperProcessor


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top_tokens", [5, 40])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_who_says_the_same_diverges_by_nothing(temperature, top_tokens):
    logits = noise(2, 7, 40)
    assert divergence(logits, taught_by(logits, temperature, top_tokens), temperature).abs().max() < 1e-6


def test_the_divergence_of_a_coin():
    """KL((1/4, 3/4) || (1/2, 1/2)) = ln 2 - H(1/4)."""
    taught = taught_by(torch.tensor([[1.0, 3.0]]).log(), 1.0)
    known = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(torch.zeros(1, 2), taught, 1.0).item() == pytest.approx(known, abs=1e-3)


def test_temperature_divides_the_logits_of_both():
    teacher, student = noise(3, 6), noise(3, 6, seed=1)
    warm = divergence(student, taught_by(teacher, 2.0), 2.0)
    torch.testing.assert_close(warm, divergence(student / 2, taught_by(teacher / 2, 1.0), 1.0))
    assert (warm < divergence(student, taught_by(teacher, 1.0), 1.0)).all()


def test_it_is_torch_s_own_divergence_where_all_tokens_are_told_apart():
    teacher, student = noise(4, 30), noise(4, 30, seed=1)
    theirs = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
    ).sum(dim=-1)
    torch.testing.assert_close(divergence(student, taught_by(teacher, 1.0), 1.0), theirs, rtol=1e-3, atol=1e-3)


def test_tokens_beyond_the_likeliest_count_as_one():
    """The same as with their probabilities added up by hand, and never more than of all tokens."""
    teacher, student = noise(1, 6), noise(1, 6, seed=1)
    taught = taught_by(teacher, 1.0, top_tokens=2)
    assert taught.log_probs.shape == (1, 3)
    assert taught.tokens is not None and taught.tokens.tolist() == [teacher[0].topk(2).indices.tolist()]

    def by_hand(logits: torch.Tensor) -> torch.Tensor:
        kept = logits[0].softmax(-1)[taught.tokens[0].long()]
        return torch.cat([kept, 1 - kept.sum(0, keepdim=True)])

    p, q = by_hand(teacher), by_hand(student)
    known = (p * (p / q).log()).sum()
    found = divergence(student, taught, 1.0)
    torch.testing.assert_close(found[0], known, rtol=1e-3, atol=1e-3)
    assert found < divergence(student, taught_by(teacher, 1.0), 1.0)


def test_what_is_certain_or_impossible_stays_finite():
    teacher = torch.tensor([[0.0, -torch.inf, -1e6, 50.0]])
    for top_tokens in (2, 4):
        student = torch.tensor([[40.0, 0.0, -40.0, 0.0]], requires_grad=True)
        apart = divergence(student, taught_by(teacher, 1.0, top_tokens), 1.0)
        apart.sum().backward()
        assert apart.isfinite().all() and student.grad is not None and student.grad.isfinite().all()
        assert apart.item() == pytest.approx(40.0, abs=1e-3)


def test_half_precision_linear_layers_say_what_autocast_makes_of_whole_ones():
    layer = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))
    x = noise(3, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        hold_in(layer, torch.bfloat16)
        assert torch.equal(layer(x), before)
    assert layer[1].weight.dtype == torch.bfloat16 and layer[0].weight.dtype == torch.float32


def ctc(text: str = "abc", n_mels: int = 80) -> CTCProcessor:
    return CTCProcessor(TextTokenizer.train([text], "char", 0), LogMel(n_mels=n_mels))


def samples(text: str = "abc", normalize: bool = True, stride: int = 2) -> Wav2Vec2Processor:
    return Wav2Vec2Processor(TextTokenizer.train([text], "char", 0), [(10, 5), (3, stride)], normalize=normalize)


def parakeet(factor: int = 8) -> ParakeetProcessor:
    return ParakeetProcessor(TextTokenizer.train(["abc"], "char", 0), ParakeetLogMel(), factor)


@pytest.mark.parametrize(
    ("student", "teacher", "difference"),
    [
        (ctc(), ctc("abcd"), "vocabulary .[0-9]+ tokens.*not [0-9]+ tokens"),
        (ctc(), ctc(n_mels=40), "features .LogMel.n_mels=40"),
        (ctc(), samples(), "as CTC does; received Wav2Vec2"),
        (samples(), samples(normalize=False), "normalised samples .False, not True"),
        (samples(), samples("abcd", stride=3), "frames.*vocabulary"),
        (parakeet(), parakeet(4), "frames .one of 4, not one of 8"),
    ],
)
def test_a_teacher_that_hears_or_speaks_otherwise_is_refused(student, teacher, difference):
    with pytest.raises(ModelError, match=difference):
        refuse_unlike(student, teacher)


def test_a_teacher_of_its_own_kind_is_taken(shared):
    refuse_unlike(ctc(), ctc())
    refuse_unlike(samples(), samples())
    refuse_unlike(parakeet(), parakeet())
    folder = shared / "models" / "whisper-tiny"
    refuse_unlike(WhisperProcessor.from_pretrained(folder, "es"), WhisperProcessor.from_pretrained(folder))


def test_a_whisper_of_another_generation_is_refused(shared):
    older = WhisperProcessor.from_pretrained(shared / "models" / "whisper-tiny")
    newer = WhisperProcessor(older.tokenizer, 128, older.language_ids)
    with pytest.raises(ModelError, match=r"mel bins .128, not 80"):
        refuse_unlike(older, newer)
