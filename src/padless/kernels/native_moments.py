"""What an optimizer does to the elements of one tensor, one pass each: moving averages, and the step itself.

On a CPU only; everything is fp32 and contiguous, of any one shape.

Legend: K elements of a tensor.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole

_ROW_ELEMENTS = 1 << 11  # of a row of the kernels, whose sums are fp32


@kernel
def _average(
    code: Code,
    row: Whole,
    grad: Memory,
    mean: Memory,
    square: Memory,
    ratios: Memory,
    size: Whole,
    new_mean: Vector,
    old_square: Vector,
    new_square: Vector,
    least: Vector,
) -> None:
    begin = row * _ROW_ELEMENTS

    def put(at: Columns, total: Vector) -> tuple[Vector]:
        upper, before = grad.load(begin, at), mean.load(begin, at)
        squared = upper * upper
        average = square.load(begin, at) * old_square + squared * new_square
        mean.store(begin, at, before + (upper - before) * new_mean)
        square.store(begin, at, average)
        return (total + squared / average.maximum(least),)

    (total,) = code.columns((size - begin).at_most(_ROW_ELEMENTS), put, 0.0)
    ratios.put_one(row, total.sum())


def average(grad: Tensor, mean: Tensor, square: Tensor, beta1: float, beta2: float, least: float) -> float:
    """Take a gradient and its square into their moving averages.

    Args:
        grad: fp32.
        mean: changed.
        square: changed.
        beta1: weight of the mean so far.
        beta2: weight of the mean square so far.
        least: what the mean square counts as at least, in what is returned.

    Returns:
        The mean over the elements of gradient^2 / mean square.
    """
    size = _check(grad, mean, square)
    ratios = torch.empty(_rows(size), dtype=torch.float32)
    _average(_rows(size), grad, mean, square, ratios, size, 1.0 - beta1, float(beta2), 1.0 - beta2, float(least))
    return float(ratios.double().sum()) / size


@kernel
def _move(
    code: Code,
    row: Whole,
    weight: Memory,
    mean: Memory,
    square: Memory,
    size: Whole,
    shrink: Vector,
    rate: Vector,
    eps: Vector,
) -> None:
    begin = row * _ROW_ELEMENTS

    def put(at: Columns) -> None:
        step = mean.load(begin, at) / (square.load(begin, at).sqrt() + eps)
        weight.store(begin, at, weight.load(begin, at) * shrink - step * rate)

    code.columns((size - begin).at_most(_ROW_ELEMENTS), put)


def move(weight: Tensor, mean: Tensor, square: Tensor, shrink: float, lr: float, eps: float) -> None:
    """Multiply the weight with ``shrink`` and take ``lr x mean / (root of square + eps)`` from it."""
    size = _check(weight, mean, square)
    _move(_rows(size), weight, mean, square, size, float(shrink), float(lr), float(eps))


def _check(*tensors: Tensor) -> int:
    flat = [each.view(-1) for each in tensors]
    return check_shapes(" ".join("K:f" for _ in flat), *flat)["K"]


def _rows(size: int) -> int:
    return -(-size // _ROW_ELEMENTS)
