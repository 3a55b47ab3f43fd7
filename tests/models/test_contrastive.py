"""Masks, negatives and losses of the contrastive objective, against known answers and transformers' own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config
from transformers import Wav2Vec2ForPreTraining as Published

from myna.models.contrastive import (
    MaskedOutput,
    MaskedTally,
    Masking,
    contrast,
    draw_masking,
    draw_negatives,
    frames_at,
    mask_of,
    masked_frames,
    perplexity,
)
from myna.models.pretraining import Wav2Vec2ForPreTraining

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_codevectors_per_group": 5,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
    "num_negatives": 7,
    "mask_time_length": 3,
    "mask_time_prob": 0.65,
    "mask_feature_prob": 0.0,
} | dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "layerdrop"), 0
)


def generators(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def settings(**changes) -> SimpleNamespace:
    values = {"mask_time_prob": 0.65, "mask_time_length": 10, "num_negatives": 100, "num_codevector_groups": 2}
    return SimpleNamespace(**values | {"num_codevectors_per_group": 4} | changes)


def test_share_and_spans_of_masks_are_those_of_the_paper():
    """The paper: 0.065 of all frames start a span of 10, which masks 49 % of them, in spans of 14.7 on average."""
    rng = np.random.default_rng(0)
    share, spans = [], []
    for _ in range(400):
        mask = np.zeros(752, dtype=bool)
        mask[masked_frames(rng, 750, settings()) + 1] = True
        share.append(mask.sum() / 750)
        edges = np.flatnonzero(np.diff(mask.astype(int)))
        spans += list(edges[1::2] - edges[::2])
    assert np.mean(share) == pytest.approx(0.49, abs=0.01)
    assert min(spans) == 10
    assert np.mean(spans) == pytest.approx(14.7, abs=0.5)


def test_a_short_clip_has_one_span_and_a_shorter_one_none():
    short = masked_frames(np.random.default_rng(0), 11, settings(mask_time_prob=0.01))
    assert len(short) == 10 and np.ptp(short) == 9
    assert len(masked_frames(np.random.default_rng(0), 9, settings())) == 0


def test_negatives_are_all_the_others_alike_and_never_the_frame_itself():
    drawn = draw_negatives(np.random.default_rng(0), 5, 40_000)
    for place, row in enumerate(drawn):
        counts = np.bincount(row, minlength=5)
        assert counts[place] == 0
        assert counts[np.arange(5) != place] == pytest.approx(10_000, rel=0.05)


def test_negatives_come_from_the_same_clip_and_padding_is_nobodys():
    drawn = draw_masking(generators(1, 2, 3), [40, 12, 3], 40, settings(mask_time_length=4), noisy=True)
    assert drawn.counts.tolist()[2] == 0  # shorter than a span
    for row, length in enumerate([40, 12, 3]):
        positions, count, negatives = drawn.positions[row], drawn.counts[row], drawn.negatives[row]
        assert (positions[:count] < length).all() and (positions[count:] == 40).all()
        assert (negatives[:count] < count).all()
        assert (negatives[:count] != torch.arange(count)[:, None]).all()
    assert drawn.noise.shape == (3, drawn.positions.shape[1], 2, 4)
    real = drawn.noise[0, : drawn.counts[0]]
    assert real.mean() == pytest.approx(0.5772, abs=0.25)  # Euler's constant


def test_what_is_drawn_for_a_clip_does_not_depend_on_its_batch():
    alone = draw_masking(generators(2), [12], 12, settings(mask_time_length=4), noisy=True)
    among = draw_masking(generators(1, 2), [40, 12], 40, settings(mask_time_length=4), noisy=True)
    count = alone.counts[0]
    assert among.counts[1] == count
    for name in ("positions", "negatives", "noise"):
        assert torch.equal(getattr(among, name)[1, :count], getattr(alone, name)[0, :count]), name


def test_frames_and_masks_by_position():
    sequence = torch.arange(8.0).view(1, 4, 2)
    positions = torch.tensor([[1, 3, 4]])  # 4: no frame
    assert frames_at(sequence, positions)[0, :2].tolist() == [[2, 3], [6, 7]]
    assert mask_of(positions, 4).tolist() == [[False, True, False, True]]


def model_of(predicted: torch.Tensor, vectors: torch.Tensor, codes: torch.Tensor, **config: float) -> SimpleNamespace:
    """Heads that give what they are told to give."""
    likely = torch.nn.functional.one_hot(codes, 2).float()
    values = {"contrastive_logits_temperature": 0.1, "diversity_loss_weight": 0.0} | config
    project_q = torch.nn.Identity()
    project_q.weight = vectors
    return SimpleNamespace(
        config=SimpleNamespace(**values),
        quantizer=lambda latents, noise: (vectors, codes, likely),
        project_q=project_q,
        project_hid=lambda context: predicted,
    )


def test_a_loss_by_hand():
    """Two masked frames, each the other's only negative; the first is predicted by 3:4, the second the wrong way."""
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    predicted = torch.tensor([[[3.0, 4.0], [5.0, 0.0]]])
    codes = torch.tensor([[[0], [1]]])
    masking = Masking(torch.tensor([[0, 1]]), torch.tensor([2]), torch.tensor([[[1, 1], [0, 0]]]), None)
    context = torch.zeros(1, 2, 2)
    found = contrast(model_of(predicted, vectors, codes, diversity_loss_weight=0.5), context, context, masking)
    first = math.log(1 + 2 * math.exp((0.8 - 0.6) / 0.1))
    second = math.log(1 + 2 * math.exp((1 - 0) / 0.1))
    # Both codes are chosen equally often: a perplexity of 2 of 2, and nothing lacks.
    assert found.losses.tolist() == pytest.approx([first + second])
    assert found.right.tolist() == [[False, False]]


def test_frames_of_one_code_are_no_negatives_and_to_tell_nothing_apart_is_no_merit():
    vectors = torch.ones(1, 2, 2)
    codes = torch.zeros(1, 2, 1, dtype=torch.int64)
    masking = Masking(torch.tensor([[0, 1]]), torch.tensor([2]), torch.tensor([[[1], [0]]]), None)
    context = torch.zeros(1, 2, 2)
    found = contrast(
        model_of(torch.ones(1, 2, 2), vectors, codes, diversity_loss_weight=0.5), context, context, masking
    )
    assert found.losses.tolist() == [pytest.approx(0.5 * 2 * (1 - 1 / 2))]  # one code in use of two
    assert not found.right.any()


def test_perplexity_is_between_one_code_and_all_of_each_book():
    real = torch.tensor([[True, True, False]])
    one = torch.zeros(1, 3, 2, 5)
    one[..., 0] = 1
    assert perplexity(one, real).tolist() == pytest.approx([2])
    assert perplexity(torch.full((1, 3, 2, 5), 0.2), real).tolist() == pytest.approx([10])
    tally = MaskedTally()
    tally.add(MaskedOutput(right=real, codes=torch.zeros(1, 3, 2, dtype=torch.int64)), torch.tensor([2]), 5)
    tally.add(MaskedOutput(right=~real, codes=torch.ones(1, 3, 2, dtype=torch.int64)), torch.tensor([2]), 5)
    assert tally.figures() == {"masked_accuracy": 0.5, "codebook_perplexity": 4.0}
    assert (tally + tally).figures() == tally.figures()
    assert int((tally + tally).masked) == 8


@pytest.mark.parametrize("clip", [0, 1])
def test_losses_of_wav2vec2_are_those_of_transformers(clip):
    """Validation, where nothing is drawn but masks and negatives; transformers takes diversity over its whole batch,
    we take it of each clip, so it is asked clip by clip."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(**SIZES)
    published = Published(config).eval()
    ours = Wav2Vec2ForPreTraining(config).eval()
    ours.load_state_dict(published.state_dict())
    samples = torch.randn(2, 16_000)
    lengths = [16_000, 9_000]
    frames = [ours.num_frames(length) for length in lengths]
    mask = torch.arange(16_000) < torch.tensor(lengths)[:, None]
    drawn = draw_masking(generators(5, 6), frames, frames[0], config, noisy=False)
    together = ours(samples, drawn.positions, drawn.counts, drawn.negatives, attention_mask=mask.long())

    count, own = int(drawn.counts[clip]), drawn.positions[clip]
    sampled = torch.zeros(1, frames[clip], config.num_negatives, dtype=torch.int64)
    sampled[0, own[:count]] = own[drawn.negatives[clip, :count]]
    alone = published(
        samples[clip : clip + 1, : lengths[clip]],
        mask_time_indices=mask_of(own[None, :count], frames[clip]),
        sampled_negative_indices=sampled,
    )
    assert count > 5
    torch.testing.assert_close(together.losses[clip], alone.loss, rtol=1e-4, atol=1e-4)


def test_noise_chooses_codes_and_gradients_reach_every_weight():
    torch.manual_seed(0)
    config = Wav2Vec2Config(**SIZES)
    model = Wav2Vec2ForPreTraining(config)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    frames = model.num_frames(16_000)
    samples = torch.randn(2, 16_000)
    drawn = draw_masking(generators(1, 2), [frames] * 2, frames, config, noisy=True)
    output = model(samples, *drawn)
    plain = model(samples, *drawn._replace(noise=None))
    assert not torch.equal(output.codes, plain.codes)
    output.losses.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name
