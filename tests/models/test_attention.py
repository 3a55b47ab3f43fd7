from __future__ import annotations

import torch

from myna.models.attention import SelfAttention, attention_mask, rotary_table, rotate


def test_full_context_sees_all_real_frames() -> None:
    mask = attention_mask(torch.tensor([3, 1]), 3, chunk_frames=0, left_chunks=-1)
    assert mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].tolist() == [[True, True, True], [True, False, False]]


def test_chunks_see_themselves_and_the_past() -> None:
    mask = attention_mask(torch.tensor([5]), 5, chunk_frames=2, left_chunks=-1)[0, 0].int()
    assert mask.tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_left_chunks_limit_the_past() -> None:
    mask = attention_mask(torch.tensor([5]), 5, chunk_frames=2, left_chunks=1)[0, 0].int()
    assert mask[4].tolist() == [0, 0, 1, 1, 1]
    only_own = attention_mask(torch.tensor([5]), 5, chunk_frames=2, left_chunks=0)[0, 0].int()
    assert only_own[3].tolist() == [0, 0, 1, 1, 0]


def test_every_frame_has_a_key() -> None:
    for chunk_frames, left_chunks in ((0, -1), (2, 0)):
        mask = attention_mask(torch.tensor([0, 1]), 6, chunk_frames, left_chunks)
        assert mask.any(dim=-1).all()


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rotary = rotary_table(10, 8, torch.device("cpu"))
    vector = torch.randn(8, generator=torch.Generator().manual_seed(0))
    turned = rotate(vector.expand(10, 8), rotary)
    torch.testing.assert_close(turned.norm(dim=-1), vector.norm().expand(10))
    products = turned @ turned.T
    torch.testing.assert_close(products.diagonal(3), products[0, 3].expand(7))
    assert not torch.allclose(products[0, 3], products[0, 4])


def test_rotation_is_computed_in_float32() -> None:
    rotary = rotary_table(600, 8, torch.device("cpu"))
    vector = torch.ones(600, 8)
    exact, half = rotate(vector, rotary), rotate(vector.bfloat16(), rotary)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, exact.bfloat16())


def test_masked_frames_do_not_matter() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16, 2)
    x = torch.randn(1, 5, 16)
    changed = x.clone()
    changed[0, 3:] = 7.0
    mask = attention_mask(torch.tensor([3]), 5, 0, -1)
    rotary = rotary_table(5, 8, x.device)
    torch.testing.assert_close(attention(x, mask, rotary)[0, :3], attention(changed, mask, rotary)[0, :3])
