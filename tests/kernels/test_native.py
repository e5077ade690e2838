"""Vectors, their mathematics and how kernels are called: against float64, at odd sizes, with every special value."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from padless.kernels import native
from padless.kernels.native import can_compute, kernel, num_threads
from padless.kernels.vector_math import exp2, normal_below, normal_density
from padless.kernels.vectors import LANES, Code, Memory, Whole

DTYPES = [torch.float32, torch.bfloat16]


@kernel
def _exp2(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    code.columns(width, lambda at: out.store(row * width, at, exp2(x.load(row * width, at))))


@kernel
def _normal_below(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    code.columns(width, lambda at: out.store(row * width, at, normal_below(x.load(row * width, at))))


@kernel
def _normal_density(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    code.columns(width, lambda at: out.store(row * width, at, normal_density(x.load(row * width, at))))


@kernel
def _copy(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    code.columns(width, lambda at: out.store(row * width, at, x.load(row * width, at)))


@kernel
def _row_sums(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    (total,) = code.columns(width, lambda at, total: (total + x.load(row * width, at),), 0.0)
    out.put_one(row, total.sum())


@kernel
def _sums_by_thread(code: Code, row: Whole, x: Memory, out: Memory, width: Whole) -> None:
    own = code.thread * width
    code.columns(width, lambda at: out.store(own, at, out.load(own, at) + x.load(row * width, at)))


def applied(function: native.Kernel, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    function(1, x, out, x.numel())
    return out


def test_exp2_is_within_two_units_in_the_last_place() -> None:
    x = torch.linspace(-126, 127, 100_001)
    right = torch.exp2(x.double())
    assert float(((applied(_exp2, x).double() - right) / right).abs().max()) < 2 * 2**-23


def test_exp2_of_special_values() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([0.0, 1.0, -1.0, -127.0, -1e30, -inf, nan, 100.0, 2.0])
    expected = torch.tensor([1.0, 2.0, 0.5, 0.0, 0.0, 0.0, nan, 2.0**100, 4.0])
    assert torch.equal(applied(_exp2, x).isnan(), expected.isnan())
    torch.testing.assert_close(applied(_exp2, x), expected, rtol=2e-7, atol=0, equal_nan=True)


def test_the_normal_distribution_is_exact_to_fp32_rounding() -> None:
    x = torch.linspace(-9, 9, 100_001)
    right = torch.special.ndtr(x.double())
    # 1.2e-7 is the step between fp32 numbers at 1.
    assert float((applied(_normal_below, x).double() - right).abs().max()) < 2 * 1.2e-7
    density = torch.exp(-0.5 * x.double() ** 2) / math.sqrt(2 * math.pi)
    assert float((applied(_normal_density, x).double() - density).abs().max()) < 1.2e-7


def test_the_normal_distribution_of_special_values() -> None:
    x = torch.tensor([0.0, math.inf, -math.inf, math.nan, 1e30, -1e30])
    expected = torch.tensor([0.5, 1.0, 0.0, math.nan, 1.0, 0.0])
    torch.testing.assert_close(applied(_normal_below, x), expected, rtol=0, atol=2e-7, equal_nan=True)


def test_bf16_is_rounded_to_nearest_even_as_torch_does() -> None:
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, 1 << 16, dtype=np.uint32).view(np.float32))
    ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 3.3895314e38, math.inf, -math.inf, math.nan, 0.0, -0.0])
    x = torch.cat([bits[(bits.abs() > 1e-37) | bits.isnan()], ties])  # a CPU may round numbers below 1e-38 to 0
    rounded = applied(_copy, x, torch.bfloat16)
    right = x.bfloat16()
    assert torch.equal(rounded.isnan(), right.isnan())
    assert torch.equal(rounded[~right.isnan()], right[~right.isnan()])
    assert torch.equal(applied(_copy, right[~right.isnan()]), right[~right.isnan()].float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, LANES - 1, LANES, LANES + 1, 3 * LANES, 3 * LANES + 5])
def test_no_column_is_left_out_and_none_beyond_the_row_is_touched(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, width).to(dtype)
    out, sums = torch.full((3 * width + LANES,), 7.0).to(dtype), torch.full((4,), 7.0)
    _copy(3, x, out, width)
    _row_sums(3, x, sums, width)
    assert torch.equal(out[: 3 * width].view(3, width), x)
    assert (out[3 * width :] == 7).all()
    torch.testing.assert_close(sums[:3], x.float().sum(1), rtol=1e-5, atol=1e-5)
    assert sums[3] == 7


def test_rows_are_shared_by_torchs_threads_and_each_is_done_once() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        x = torch.randn(501, 40)
        assert num_threads(501) == 2
        assert num_threads(3) == 1
        out, sums = torch.zeros_like(x), torch.zeros(2, 40)
        _copy(501, x, out, 40)
        _sums_by_thread(501, x, sums, 40)
        assert torch.equal(out, x)
        assert sums.any(1).all()
        torch.testing.assert_close(sums.sum(0), x.sum(0), rtol=1e-5, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_without_libgomp_one_thread_does_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_gomp", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, out = torch.randn(501, 40), torch.zeros(501, 40)
    assert num_threads(501) == 1
    kernel(_copy.write)(501, x, out, 40)
    assert torch.equal(out, x)


def test_fp32_and_bf16_can_be_computed_and_nothing_else() -> None:
    assert [can_compute(each) for each in (*DTYPES, torch.float16, torch.float64)] == [True, True, False, False]
