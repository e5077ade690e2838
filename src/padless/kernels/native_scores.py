"""Softmax of attention scores and its gradient, each in place and without a pass for what is hidden.

The forward pass leaves exponentials undivided: the sum divides what they weigh, which is narrower. The backward pass
needs one number a row of each: the log of that sum, and the product of the output with its gradient (Dao et al. 2022,
"FlashAttention", appendix B).

    scores S      [ 0 0 | exp(S - largest) | 0 0 ]                     first <= column < stop are seen
    gradient dP   [ 0 0 | P (dP - delta)   | 0 0 ]   P = exp(S - lse), which takes the place of S

On a CPU only; scores and gradients are fp32 or bf16, contiguous; arithmetic is fp32.

Legend: R rows (queries of some heads), K keys of a row, B bounds, one for every R / B rows, H head width.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel
from padless.kernels.vector_math import LOG2_E, exp2
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole


def _seen(first: Memory, stop: Memory, bound: Whole, width: Whole) -> tuple[Whole, Whole]:
    """Return the bounds of what is seen, within the row whatever they say."""
    end = stop.whole(bound).at_least(0).at_most(width)
    return first.whole(bound).at_least(0).at_most(end), end


def _hide(code: Code, memory: Memory, begin: Whole, seen: tuple[Whole, Whole], width: Whole) -> None:
    nothing = code.number(0.0)
    code.columns(seen[0], lambda at: memory.store(begin, at, nothing))
    code.columns(width, lambda at: memory.store(begin, at, nothing), first=seen[1])


@kernel
def _exponentiate(
    code: Code,
    row: Whole,
    scores: Memory,
    first: Memory,
    stop: Memory,
    largest: Memory,
    total: Memory,
    width: Whole,
    rows_of_bound: Whole,
) -> None:
    begin, bound = row * width, row // rows_of_bound
    seen = _seen(first, stop, bound, width)
    (tops,) = code.columns(
        seen[1], lambda at, top: (top.maximum(scores.load(begin, at)),), float("-inf"), first=seen[0]
    )
    top = tops.max()
    top = top.equals(float("-inf")).choose(0.0, top)  # a row that sees nothing

    def put(at: Columns, sums: Vector) -> tuple[Vector]:
        value = exp2((scores.load(begin, at) - top) * LOG2_E)
        scores.store(begin, at, value)
        return (sums + value,)

    (sums,) = code.columns(seen[1], put, 0.0, first=seen[0])
    _hide(code, scores, begin, seen, width)
    largest.put_one(row, top)
    total.put_one(row, sums.sum())


def exponentiate(scores_RK: Tensor, first_B: Tensor, stop_B: Tensor, largest_R: Tensor, total_R: Tensor) -> None:
    """Turn scores into exponentials, 0 where a key is hidden.

    Args:
        scores_RK: overwritten.
        first_B: int32 first key that is seen.
        stop_B: int32 end of those that are seen.
        largest_R: gets the largest score that is seen, which is taken out, fp32; 0 where none is.
        total_R: gets the sum of the exponentials, fp32; 0 where no key is seen.
    """
    sizes = check_shapes("RK B:i B:i R:f R:f", scores_RK, first_B, stop_B, largest_R, total_R)
    _check_bounds(sizes)
    num_rows, width = scores_RK.shape
    _exponentiate(num_rows, scores_RK, first_B, stop_B, largest_R, total_R, width, num_rows // first_B.shape[0])


@kernel
def _score_gradient(
    code: Code,
    row: Whole,
    scores: Memory,
    grad: Memory,
    first: Memory,
    stop: Memory,
    lse: Memory,
    delta: Memory,
    width: Whole,
    rows_of_bound: Whole,
) -> None:
    begin, bound = row * width, row // rows_of_bound
    seen = _seen(first, stop, bound, width)
    shift, inner = lse.one(row), delta.one(row)

    def put(at: Columns) -> None:
        share = exp2((scores.load(begin, at) - shift) * LOG2_E)
        scores.store(begin, at, share)
        grad.store(begin, at, share * (grad.load(begin, at) - inner))

    code.columns(seen[1], put, first=seen[0])
    for memory in (scores, grad):
        _hide(code, memory, begin, seen, width)


def score_gradient(
    scores_RK: Tensor, grad_RK: Tensor, first_B: Tensor, stop_B: Tensor, lse_R: Tensor, delta_R: Tensor
) -> None:
    """Turn scores into probabilities and the gradient of probabilities into that of scores.

    Args:
        scores_RK: overwritten by the probabilities.
        grad_RK: gradient of the probabilities; overwritten by that of the scores.
        first_B: int32 first key that is seen.
        stop_B: int32 end of those that are seen.
        lse_R: log of the sum of exponentials, fp32.
        delta_R: output times its gradient, summed, fp32.
    """
    sizes = check_shapes("RK RK B:i B:i R:f R:f", scores_RK, grad_RK, first_B, stop_B, lse_R, delta_R)
    _check_bounds(sizes)
    num_rows, width = scores_RK.shape
    _score_gradient(num_rows, scores_RK, grad_RK, first_B, stop_B, lse_R, delta_R, width, num_rows // first_B.shape[0])


@kernel
def _divide(code: Code, row: Whole, x: Memory, total: Memory, out: Memory, width: Whole, out_step: Whole) -> None:
    sums = total.one(row)
    factor = 1.0 / sums.equals(0.0).choose(1.0, sums)

    def put(at: Columns) -> None:
        out.store(row * out_step, at, x.load(row * width, at) * factor)

    code.columns(width, put)


def divide(x_RH: Tensor, total_R: Tensor, out_RH: Tensor) -> None:
    """Put rows divided by their total (by 1 where it is 0) into ``out_RH``, whose rows may lie apart."""
    check_shapes("RH R:f", x_RH, total_R)
    check_shapes("SH RH", out_RH, x_RH, rows_apart=True)
    if out_RH.shape[0] > x_RH.shape[0]:
        raise ValueError(f"{x_RH.shape[0]} rows are too few for {out_RH.shape[0]}")
    _divide(out_RH.shape[0], x_RH, total_R, out_RH, x_RH.shape[1], out_RH.stride(0))


def log_sum(largest: Tensor, total: Tensor) -> Tensor:
    """Return log of the sum of exponentials, finite where nothing was seen."""
    return torch.log(total.clamp(min=torch.finfo(total.dtype).tiny)).add_(largest)


def _check_bounds(sizes: dict[str, int]) -> None:
    if sizes["R"] % sizes["B"]:
        raise ValueError(f"{sizes['R']} rows cannot share {sizes['B']} bounds equally")
