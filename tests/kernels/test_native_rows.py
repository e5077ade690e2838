"""Kernels for rows against torch's formulas, fp32 and bf16, one row and odd sizes; NaN comes through."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from padless.kernels import native_rows as rows

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(1, 1), (1, 32), (7, 33), (130, 96)]
FP32 = 1e-5  # gelu: Phi to 1.3e-7, times an input and a gate of up to 10 each
HALF_STEP = 2**-8  # half the relative step between bf16 numbers is 2^-9, and a computed value rounds to a neighbour


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": HALF_STEP, "atol": 1e-5} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": FP32}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(dtype)


@pytest.mark.parametrize("low", DTYPES)
@pytest.mark.parametrize("stream", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norm_and_its_gradient_are_torchs(size: tuple[int, int], stream: torch.dtype, low: torch.dtype) -> None:
    x, weight = random(*size, dtype=stream) + 3, random(size[1]) + 1
    leaf, weight_leaf = x.float().requires_grad_(), weight.clone().requires_grad_()
    right = F.layer_norm(leaf, size[1:], weight_leaf, None, 1e-5)
    mean, rstd = torch.empty(size[0]), torch.empty(size[0])
    out = torch.empty(size, dtype=low)
    rows.normalise(x, weight, 1e-5, mean, rstd, out)
    # The mean of numbers around 3 is off by 2e-7, times 1 / deviation: 300 where a row has one element.
    torch.testing.assert_close(out.float(), right.detach(), rtol=HALF_STEP if low == torch.bfloat16 else 0, atol=2e-4)
    grad, residual = random(*size, dtype=low, seed=1), random(*size, seed=2)
    right.backward(grad.float())
    assert leaf.grad is not None
    assert weight_leaf.grad is not None
    grad_x, normed = torch.empty(size), torch.empty(size, dtype=low)
    grad_weight = rows.normalise_backward(grad, x, weight, mean, rstd, residual, grad_x, normed)
    assert torch.equal(normed, out)
    torch.testing.assert_close(grad_x, leaf.grad + residual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_weight, weight_leaf.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_geglu_and_its_gradient_are_torchs(size: tuple[int, int], dtype: torch.dtype) -> None:
    both = random(size[0], 2 * size[1], dtype=dtype) * 3
    leaf = both.float().requires_grad_()
    one, gate = leaf.chunk(2, 1)
    right = F.gelu(one) * gate
    out = torch.empty(size, dtype=dtype)
    rows.geglu(both, out)
    torch.testing.assert_close(out.float(), right.detach(), **tolerance(dtype))
    grad = random(*size, dtype=dtype, seed=1)
    right.backward(grad.float())
    assert leaf.grad is not None
    grad_both, again = torch.empty_like(both), torch.empty_like(out)
    rows.geglu_backward(grad, both, grad_both, again)
    assert torch.equal(again, out)
    torch.testing.assert_close(grad_both.float(), leaf.grad, **tolerance(dtype))


def test_gelu_far_from_zero_is_the_input_or_nothing() -> None:
    both = torch.tensor([[1e4, -1e4, 6.0, -6.0, 1.0, 1.0, 1.0, 1.0]])
    out = torch.empty(1, 4)
    rows.geglu(both, out)
    assert out[0].tolist() == [1e4, 0.0, 6.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "heads", "width"), [(1, 1, 2), (9, 2, 16), (40, 3, 64), (5, 2, 80)])
def test_rotation_turns_pairs_and_back(num_rows: int, heads: int, width: int, dtype: torch.dtype) -> None:
    qkv, angle = random(num_rows, 3, heads, width, dtype=dtype), random(num_rows, width // 2)
    cos, sin = angle.cos(), angle.sin()
    out = torch.zeros((3, heads, num_rows + 5, width), dtype=dtype)
    rows.rotate(qkv, cos, sin, 0.5, out, 2)
    turn = torch.complex(cos, sin)[:, None, None]
    first, second = qkv[:, :2].float().chunk(2, -1)
    turned = torch.complex(first, second) * turn
    right = torch.cat([torch.cat([turned.real, turned.imag], -1), qkv[:, 2:].float()], 1).permute(1, 2, 0, 3)
    right[0] *= 0.5
    own = out[:, :, 2 : 2 + num_rows]
    torch.testing.assert_close(own.float(), right, **tolerance(dtype))
    assert not out[:, :, :2].any()
    assert not out[:, :, 2 + num_rows :].any()
    back = torch.empty_like(qkv)
    rows.rotate_back(out, 2, cos, sin, 2.0, back)
    torch.testing.assert_close(
        back.float(), qkv.float(), rtol=2 * HALF_STEP, atol=2e-2 if dtype == torch.bfloat16 else FP32
    )


@pytest.mark.parametrize("other", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_may_replace_what_it_adds_to_and_rows_may_lie_apart(size: tuple[int, int], other: torch.dtype) -> None:
    total, part = random(size[0], size[1] + 3)[:, : size[1]], random(*size, dtype=other, seed=1)
    right = total + part.float()
    rows.add(total, part, total)
    assert torch.equal(total, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "heads", "width"), [(1, 1, 1), (9, 2, 33), (40, 3, 64)])
def test_heads_are_laid_first_and_products_summed(num_rows: int, heads: int, width: int, dtype: torch.dtype) -> None:
    x, y = (random(num_rows, heads, width, dtype=dtype, seed=seed) for seed in range(2))
    out, dots = torch.zeros((heads, num_rows + 4, width), dtype=dtype), torch.zeros(heads, num_rows + 4)
    rows.lay_heads_first(x, y, out, dots, 3)
    assert torch.equal(out[:, 3 : 3 + num_rows], x.transpose(0, 1))
    right = (x.float() * y.float()).sum(-1).t()
    torch.testing.assert_close(dots[:, 3 : 3 + num_rows], right, rtol=1e-5, atol=1e-5)
    assert not out[:, :3].any()
    assert not dots[:, :3].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_moved_by_their_numbers(dtype: torch.dtype) -> None:
    x, out = random(2, 6, 33, dtype=dtype), torch.zeros((9, 2, 33), dtype=dtype).transpose(0, 1)
    source, target = torch.tensor([5, 0, 0], dtype=torch.int32), torch.tensor([1, 8, 3], dtype=torch.int32)
    rows.move_rows(x, source, out, target)
    right = torch.zeros((2, 9, 33), dtype=dtype)
    right[:, target.long()] = x[:, source.long()]
    assert torch.equal(out, right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_reaches_every_result_of_its_row_and_no_other_row(dtype: torch.dtype) -> None:
    x, both = random(3, 40, dtype=dtype), random(3, 80, dtype=dtype)
    x[1, 7] = both[1, 7] = float("nan")
    mean, rstd, out = torch.empty(3), torch.empty(3), torch.empty_like(x)
    rows.normalise(x, torch.ones(40), 1e-5, mean, rstd, out)
    assert out.isnan().all(1).tolist() == [False, True, False]
    assert not out[[0, 2]].isnan().any()
    rows.geglu(both, out)
    assert out.isnan().sum() == 1
    grad_both = torch.empty_like(both)
    rows.geglu_backward(x, both, grad_both, out)
    assert grad_both[1, 7].isnan()
    assert not grad_both[[0, 2]].isnan().any()
