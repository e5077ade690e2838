"""Softmax of scores and its gradient, and the loss's passes over logits, against torch's formulas."""

import math

import pytest
import torch
from torch import Tensor

from padless.kernels.native_logits import sum_exponentials, take_shares
from padless.kernels.native_scores import divide, exponentiate, log_sum, score_gradient

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(1, 1), (2, 33), (6, 64), (30, 192)]


def random_scores(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return (torch.randn(size, generator=torch.Generator().manual_seed(size[1])) * 4).to(dtype)


def bounds(size: tuple[int, int], rows_of_bound: int) -> tuple[Tensor, Tensor, Tensor]:
    """First and end of what is seen, and it as a mask."""
    generator = torch.Generator().manual_seed(size[0])
    count = size[0] // rows_of_bound
    first = torch.randint(0, size[1], (count,), generator=generator)
    stop = first + 1 + (torch.rand(count, generator=generator) * (size[1] - first)).long()
    places = torch.arange(size[1])
    is_seen = (places >= first[:, None]) & (places < stop[:, None])
    return first.int(), stop.int(), is_seen.repeat_interleave(rows_of_bound, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows_of_bound", [1, 2])
def test_softmax_and_its_gradient_are_torchs(size: tuple[int, int], dtype: torch.dtype, rows_of_bound: int) -> None:
    rows_of_bound = min(rows_of_bound, size[0])
    scores, values = random_scores(size, dtype), torch.randn(size[1], 33).to(dtype)
    first, stop, is_seen = bounds(size, rows_of_bound)
    leaf = scores.float().requires_grad_()
    right = leaf.masked_fill(~is_seen, -math.inf).softmax(1)
    exponentials, largest, total = scores.clone(), torch.empty(size[0]), torch.empty(size[0])
    exponentiate(exponentials, first, stop, largest, total)
    out = torch.empty((size[0], 40), dtype=dtype)[:, :33]
    divide((exponentials @ values), total, out)
    low = dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), right.detach() @ values.float(), rtol=0, atol=3e-2 if low else 1e-5)
    assert not exponentials[~is_seen].any()
    lse = log_sum(largest, total)
    hidden = scores.float().masked_fill(~is_seen, -math.inf)
    torch.testing.assert_close(lse, hidden.logsumexp(1), rtol=1e-6, atol=1e-6)
    grad = random_scores((size[0], size[1]), dtype).flip(1).contiguous()
    right.backward(grad.float())
    assert leaf.grad is not None
    delta = (right.detach() * grad.float()).sum(1)
    score_gradient(scores, grad, first, stop, lse, delta)
    torch.testing.assert_close(scores.float(), right.detach(), rtol=2**-8 if low else 1e-5, atol=1e-6)
    torch.testing.assert_close(grad.float(), leaf.grad, rtol=2**-7 if low else 1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_sees_nothing_gives_zeros(dtype: torch.dtype) -> None:
    scores, grad = random_scores((2, 40), dtype), random_scores((2, 40), dtype)
    first, stop = torch.tensor([0, 0], dtype=torch.int32), torch.tensor([0, 40], dtype=torch.int32)
    largest, total, out = torch.empty(2), torch.empty(2), torch.empty((2, 40), dtype=dtype)
    exponentiate(scores, first, stop, largest, total)
    divide(scores, total, out)
    lse = log_sum(largest, total)
    assert lse.isfinite().all()
    score_gradient(scores, grad, first, stop, lse, torch.zeros(2))
    assert not any(each[0].any() for each in (out, scores, grad))
    assert abs(float(out[1].float().sum()) - 1) < 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_give_nan(value: float, dtype: torch.dtype) -> None:
    scores = random_scores((2, 40), dtype)
    scores[0, 35] = value
    first, stop = torch.zeros(1, dtype=torch.int32), torch.full((1,), 40, dtype=torch.int32)
    largest, total = torch.empty(2), torch.empty(2)
    exponentiate(scores, first, stop, largest, total)
    assert total.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_log_of_the_sum_is_torchs_tile_by_tile(size: tuple[int, int], dtype: torch.dtype) -> None:
    tiles = [random_scores(size, dtype) + level for level in (-100, 0, 90, 3)]
    largest, total = torch.full((size[0],), -math.inf), torch.zeros(size[0])
    for tile in tiles:
        sum_exponentials(tile, largest, total)
    right = torch.cat(tiles, 1).double().logsumexp(1)
    torch.testing.assert_close((total.log() + largest).double(), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_shares_and_their_sums_are_torchs(size: tuple[int, int], dtype: torch.dtype) -> None:
    logits = random_scores(size, dtype)
    lse, factor = logits.float().logsumexp(1), torch.rand(size[0]) + 0.5
    lse[-1] = math.inf  # a row that does not count
    right = (logits.float() - lse[:, None]).exp() * factor[:, None]
    sums = take_shares(logits, lse, factor)
    torch.testing.assert_close(logits.float(), right, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)
    torch.testing.assert_close(sums, right.sum(0), rtol=1e-5, atol=1e-6)
    assert not logits[-1].any()


def test_a_nan_logit_gives_a_nan_sum_and_a_row_of_minus_infinity_none() -> None:
    logits = torch.randn(3, 50)
    logits[0, 44] = math.nan
    logits[1] = -math.inf
    largest, total = torch.full((3,), -math.inf), torch.zeros(3)
    sum_exponentials(logits, largest, total)
    lse = total.log() + largest
    assert lse.isnan()[0]
    assert lse[1] == -math.inf
    assert lse[2].isfinite()
