from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCTC

from myna.data.checks import ctc_frames_needed
from myna.errors import ModelError
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.ctc_model import CTCModel, ctc_losses
from myna.models.subsampling import subsampled_length
from myna.models.transformer import TransformerConfig, TransformerForCTC

SIZES = {"vocab_size": 7, "n_mels": 16, "d_model": 16, "num_encoder_layers": 2, "num_heads": 2, "d_ff": 32}
FAMILIES = ["conformer", "transformer"]


def make(family: str, **changes: object) -> CTCModel:
    torch.manual_seed(0)
    if family == "conformer":
        return ConformerForCTC(ConformerConfig(**{**SIZES, "conv_kernel_size": 5, **changes})).eval()
    return TransformerForCTC(TransformerConfig(**{**SIZES, **changes})).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk_frames", [0, 3])
def test_padding_changes_nothing(family: str, chunk_frames: int) -> None:
    model = make(family, chunk_frames=chunk_frames)
    features = noise(3, 61, 16)
    lengths = torch.tensor([61, 38, 5])
    batched = model(features, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(features[row : row + 1, :length], torch.tensor([length]))
        assert batched.lengths[row] == alone.logits.shape[1] == subsampled_length(length)
        torch.testing.assert_close(batched.logits[row, : batched.lengths[row]], alone.logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left_chunks", [-1, 1])
def test_later_chunks_do_not_reach_back(family: str, left_chunks: int) -> None:
    model = make(family, chunk_frames=4, left_chunks=left_chunks)
    features, lengths = noise(1, 64, 16), torch.tensor([64])  # 16 encoder frames: 4 chunks
    changed = features.clone()
    changed[:, 33:] += 1.0  # encoder frame 8, the third chunk's first, sees features up to 32
    before, after = model(features, lengths).logits, model(changed, lengths).logits
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("family", FAMILIES)
def test_full_context_looks_ahead(family: str) -> None:
    model = make(family)
    features, lengths = noise(1, 64, 16), torch.tensor([64])
    changed = features.clone()
    changed[:, 60:] += 1.0
    assert not torch.allclose(model(features, lengths).logits[:, 0], model(changed, lengths).logits[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_bit_equal(family: str, tmp_path: Path) -> None:
    model = make(family, chunk_frames=2, left_chunks=3)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCTC.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert loaded.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    features, lengths = noise(2, 40, 16), torch.tensor([40, 21])
    assert torch.equal(model(features, lengths).logits, loaded(features, lengths).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: str) -> None:
    model = make(family).train()
    model(noise(2, 40, 16), torch.tensor([40, 21]), torch.tensor([[1, 2, 2], [3, -100, -100]])).losses.sum().backward()
    dead = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_recomputes_the_same_gradients(family: str) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = make(family, dropout=0.1).train()
        model.layers[0].attention.register_forward_hook(lambda *_, run=checkpointing: calls.append(run))
        if checkpointing:
            with warnings.catch_warnings():  # the only name in transformers 5.17 is deprecated in 5.23
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        model(noise(2, 40, 16), torch.tensor([40, 21]), torch.tensor([[1, 2], [3, -100]])).losses.sum().backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert calls == [False, True, True]  # once, then once more in the backward pass
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast(family: str) -> None:
    model = make(family).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(noise(2, 40, 16), torch.tensor([40, 21]), torch.tensor([[1, 2], [3, -100]])).losses
    assert losses.dtype == torch.float32
    losses.sum().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_losses_by_hand() -> None:
    """All 3^3 paths of three frames that collapse to the label, added up."""
    logits, labels = noise(2, 3, 3), torch.tensor([[1, 2], [2, -100]])
    log_probs = logits.log_softmax(-1)
    losses = ctc_losses(logits, torch.tensor([3, 2]), labels)
    for row, (num_frames, wanted) in enumerate([(3, [1, 2]), (2, [2])]):
        total = 0.0
        for path in itertools.product(range(3), repeat=num_frames):
            if [token for token, _ in itertools.groupby(path) if token] == wanted:
                total += math.exp(sum(log_probs[row, frame, token].item() for frame, token in enumerate(path)))
        assert losses[row].item() == pytest.approx(-math.log(total), rel=1e-5)


def test_a_row_without_labels_is_finite() -> None:
    model = make("conformer").train()
    losses = model(noise(2, 40, 16), torch.tensor([40, 21]), torch.zeros(2, 0, dtype=torch.int64)).losses
    assert losses.isfinite().all()
    losses.sum().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_frames_needed_are_the_exact_limit() -> None:
    labels = [1, 1, 2, 2, 2, 3]
    assert ctc_frames_needed(labels) == 9
    assert ctc_frames_needed([]) == 0
    for num_frames, feasible in ((9, True), (8, False)):
        loss = ctc_losses(noise(1, num_frames, 4), torch.tensor([num_frames]), torch.tensor([labels]))
        assert loss.isfinite().item() is feasible


def test_heads_must_have_an_even_width() -> None:
    with pytest.raises(ModelError, match=r"expected d_model in multiples of .* = 12; received 16"):
        make("transformer", num_heads=6)
