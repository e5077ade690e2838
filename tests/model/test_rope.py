"""Rotary position embedding: scores depend on distances, and the gradient is the rotation back."""

import pytest
import torch

from padless.model.rope import rope_table, rotate


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 16, generator=generator, dtype=torch.float32)
    qkv = torch.stack([q, k, k]).expand(60, 3, 16)[:, :, None].contiguous()
    turned = rotate(qkv, rope_table(torch.arange(60), 16, 10_000.0))
    scores = turned[:, 0, 0] @ turned[:, 1, 0].t()
    for distance in (-20, 0, 3, 40):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert (scores[0, 0] - scores[0, 10]).abs() > 1e-2


def test_position_zero_and_values_are_left_alone() -> None:
    qkv = torch.randn(5, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(qkv, rope_table(torch.tensor([0, 1, 2, 0, 7]), 8, 10_000.0))
    assert torch.equal(turned[[0, 3]], qkv[[0, 3]])
    assert torch.equal(turned[:, 2], qkv[:, 2])
    assert not torch.equal(turned[1, :2], qkv[1, :2])


def test_gradient_equals_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(6, 3, 2, 8, generator=generator).requires_grad_()
    direction = torch.randn(6, 3, 2, 8, generator=generator)
    positions = torch.tensor([0, 1, 2, 3, 0, 900])
    angles = positions[:, None, None].float() * 500.0 ** (-torch.arange(4) / 4)
    q_and_k, value = qkv[:, :2], qkv[:, 2:]
    first, second = q_and_k.chunk(2, -1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    right = torch.cat([torch.cat([first * cos - second * sin, second * cos + first * sin], -1), value], 1)
    mine = rotate(qkv, rope_table(positions, 8, 500.0))
    torch.testing.assert_close(mine, right, atol=1e-4, rtol=0)
    grads = [torch.autograd.grad((out * direction).sum(), qkv)[0] for out in (mine, right)]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rotation_is_computed_in_fp32_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    qkv = torch.randn(300, 3, 2, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    table = rope_table(torch.arange(300), 16, 10_000.0)
    turned = rotate(qkv, table)
    assert turned.dtype == dtype
    assert torch.equal(turned, rotate(qkv.float(), table).to(dtype))
