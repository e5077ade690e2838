"""What the loss does to a tile of logits, in one pass each way.

On a CPU only; logits are fp32 or bf16, contiguous; arithmetic is fp32.

Legend: R rows, C columns of a tile of logits.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel, num_threads
from padless.kernels.vector_math import LOG2_E, exp2
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole


@kernel
def _sum_exponentials(code: Code, row: Whole, logits: Memory, largest: Memory, total: Memory, width: Whole) -> None:
    begin = row * width
    (tops,) = code.columns(width, lambda at, top: (top.maximum(logits.load(begin, at)),), float("-inf"))
    before = largest.one(row)
    top = tops.max().maximum(before)
    finite = top.equals(float("-inf")).choose(0.0, top)  # nothing but minus infinity so far

    def add_up(at: Columns, sums: Vector) -> tuple[Vector]:
        return (sums + exp2((logits.load(begin, at) - finite) * LOG2_E),)

    (sums,) = code.columns(width, add_up, 0.0)
    total.put_one(row, total.one(row) * exp2((before - finite) * LOG2_E) + sums.sum())
    largest.put_one(row, top)


def sum_exponentials(logits_RC: Tensor, largest_R: Tensor, total_R: Tensor) -> None:
    """Take a tile into each row's sum of exp(logit - largest).

    Args:
        logits_RC: of the tile.
        largest_R: largest logit so far, fp32; minus infinity at first.
        total_R: sum so far, fp32; 0 at first.
    """
    check_shapes("RC R:f R:f", logits_RC, largest_R, total_R)
    _sum_exponentials(logits_RC.shape[0], logits_RC, largest_R, total_R, logits_RC.shape[1])


@kernel
def _take_shares(
    code: Code, row: Whole, logits: Memory, lse: Memory, factor: Memory, sums: Memory, width: Whole
) -> None:
    begin, own_sums = row * width, code.thread * width
    shift, times = lse.one(row), factor.one(row)

    def put(at: Columns) -> None:
        share = exp2((logits.load(begin, at) - shift) * LOG2_E) * times
        sums.store(own_sums, at, sums.load(own_sums, at) + share)
        logits.store(begin, at, share)

    code.columns(width, put)


def take_shares(logits_RC: Tensor, lse_R: Tensor, factor_R: Tensor) -> Tensor:
    """Turn logits into exp(logit - lse) x factor, in place.

    Args:
        logits_RC: overwritten.
        lse_R: log of each row's sum of exponentials, fp32; infinite where a row is to have none.
        factor_R: fp32.

    Returns:
        Their sums over the rows, fp32 [C], from before they are rounded.
    """
    check_shapes("RC R:f R:f", logits_RC, lse_R, factor_R)
    num_rows, width = logits_RC.shape
    threads = num_threads(num_rows)
    sums_tC = torch.zeros((threads, width), dtype=torch.float32)
    _take_shares(num_rows, logits_RC, lse_R, factor_R, sums_tC, width, threads=threads)
    return sums_tC.sum(0)
