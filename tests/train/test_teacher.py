"""A student's losses with a teacher, over every family; what the teacher said, kept or asked for again."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from method_cases import FAMILIES, METHODS, SHORT_CONTEXT, build_method, speech_batch, write_base

from myna.models.recognizer import Recognizer
from myna.samples import Batch
from myna.train.teacher import GIB, Distillation, alone

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of WavLM in transformers


@pytest.fixture(scope="module")
def bases(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        write_base(folder / family, family, shared)
    return folder


def pair(bases: Path, family: str, method: str = "full") -> tuple[Recognizer, Recognizer]:
    """A student, and a teacher that was it once."""
    mask = ["model.mask_time_prob=0"] if family in ("wav2vec2", "hubert", "wavlm") else []
    student = build_method(bases / family, family, method, *mask)
    teacher = build_method(bases / family, family, "full")
    teacher.model.eval().requires_grad_(False)
    return student, teacher


def distillation(student: Recognizer, teacher: Recognizer, **settings) -> Distillation:
    values = {"alpha": 0.5, "temperature": 2.0, "device": torch.device("cpu"), **settings}
    return Distillation(student, teacher, **values)


def test_a_student_in_short_context_learns_from_a_teacher_in_full(bases: Path) -> None:
    student = build_method(bases / "whisper", "whisper", "full", *SHORT_CONTEXT)
    teacher = build_method(bases / "whisper", "whisper", "full")
    batch = speech_batch(student)
    assert batch.features.shape[1] == 400
    heard = distillation(student, teacher).taught(batch)
    in_full = distillation(teacher, teacher).taught(speech_batch(teacher))
    assert torch.equal(heard.log_probs, in_full.log_probs)


def other_than(teacher: Recognizer) -> Recognizer:
    changed = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return changed


def ragged(recognizer: Recognizer) -> Batch:
    """Rows of several lengths, as `make_batch` pads them."""
    batch = speech_batch(recognizer)
    if batch.features.shape[1] == 3000:  # Whisper's are all as long
        return batch
    lengths = (batch.feature_lengths * torch.tensor([1.0, 0.9, 0.8, 0.7])).long()
    features = batch.features.clone()
    for row, length in enumerate(lengths.tolist()):
        features[row, length:] = 0
    return replace(batch, features=features, feature_lengths=lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(bases, family):
    student, teacher = pair(bases, family)
    losses = distillation(student, teacher, alpha=1.0).losses(student.model, speech_batch(student))
    assert losses.shape == (4,) and losses.abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_with_alpha_0_losses_and_gradients_are_the_plain_ones(bases, family):
    student, teacher = pair(bases, family)
    batch = ragged(student)
    found = []
    for losses in (student.losses, distillation(student, other_than(teacher), alpha=0.0, keep_bytes=GIB).losses):
        torch.manual_seed(0)
        student.model.zero_grad()
        rows = losses(student.model, batch)
        rows.sum().backward()
        grads = {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}
        found.append((rows.detach(), grads))
    (plain, plain_grads), (taught, taught_grads) = found
    assert torch.equal(plain, taught)
    assert plain_grads.keys() == taught_grads.keys()
    assert all(torch.equal(plain_grads[name], taught_grads[name]) for name in plain_grads)


@pytest.mark.parametrize("keep_bytes", [0, GIB])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_s_loss_does_not_depend_on_the_rows_beside_it(bases, family, keep_bytes):
    """So a step may be split as memory wants."""
    student, teacher = pair(bases, family)
    batch = ragged(student)
    taught = distillation(student, other_than(teacher), keep_bytes=keep_bytes)
    whole = taught.losses(student.model, batch)
    assert (whole > 1e-3).all()
    halves = [replace(batch, **{name: value[part] for name, value in _columns(batch).items()}) for part in HALVES]
    parts = torch.cat([taught.losses(student.model, half) for half in halves])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


HALVES = (slice(0, 1), slice(1, 4))


def _columns(batch: Batch) -> dict:
    names = ("utterance_ids", "features", "feature_lengths", "labels", "label_lengths", "weights")
    return {name: getattr(batch, name) for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_does_not_matter_what_was_kept(bases, family):
    student, teacher = pair(bases, family)
    teacher = other_than(teacher)
    keeper = distillation(student, teacher, keep_bytes=GIB)
    forgetful = distillation(student, teacher, keep_bytes=1)
    batch = ragged(student)
    pass_by = replace(batch, **{name: value[HALVES[1]] for name, value in _columns(batch).items()})
    keeper.losses(student.model, pass_by)  # in another company
    assert len(keeper.kept) == 3
    first, again = keeper.losses(student.model, batch), keeper.losses(student.model, batch)
    anew = forgetful.losses(student.model, batch)
    assert not forgetful.kept and len(keeper.kept) == 4
    assert torch.equal(first, again) and torch.equal(first, anew)
    whole = distillation(student, teacher).losses(student.model, batch)  # heard together, as with augmentation
    torch.testing.assert_close(whole, first, rtol=1e-3, atol=1e-3)


def test_what_is_kept_is_counted_and_costs_no_second_pass(bases, monkeypatch):
    student, teacher = pair(bases, "conformer")
    asked = []
    hear = teacher.logits
    monkeypatch.setattr(teacher, "logits", lambda model, batch: asked.append(len(batch.weights)) or hear(model, batch))
    batch = ragged(student)
    one_clip = distillation(student, teacher, keep_bytes=GIB)
    one_clip.taught(alone(batch, 3))
    taught = distillation(student, teacher, keep_bytes=int(2.5 * one_clip.kept_bytes))
    asked.clear()
    taught.losses(student.model, batch)
    taught.losses(student.model, batch)
    assert asked == [1] * len(asked) and len(asked) == 4 + (4 - len(taught.kept))
    assert 0 < len(taught.kept) < 4 and 0 < taught.kept_bytes <= taught.keep_bytes


def test_a_row_that_stands_in_for_another_is_neither_kept_nor_taken_from_what_was(bases):
    student, teacher = pair(bases, "conformer")
    taught = distillation(student, teacher, keep_bytes=GIB)
    batch = alone(speech_batch(student), 0)
    taught.losses(student.model, replace(batch, weights=torch.zeros(1)))
    assert not taught.kept
    real = taught.taught(batch)
    silent = replace(batch, features=torch.zeros_like(batch.features), weights=torch.zeros(1))
    assert not torch.equal(taught.taught(silent).log_probs, real.log_probs)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["whisper", "conformer", "wav2vec2"])
def test_every_method_learns_from_a_teacher_checkpointed_and_in_half_precision(bases, family, method):
    student, teacher = pair(bases, family, method)
    taught = distillation(student, teacher, alpha=1.0, dtype=torch.bfloat16, keep_bytes=GIB)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a name that releases deprecate
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.autocast("cpu", torch.bfloat16):
        losses = taught.losses(student.model, ragged(student))
        losses.sum().backward()
    assert (losses > 0).all() and losses.isfinite().all()
    trained = [(name, p) for name, p in student.model.named_parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for _, p in trained)
    assert any(p.grad.any() for _, p in trained)
    assert not any(p.requires_grad for p in teacher.model.parameters()) and not teacher.model.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
