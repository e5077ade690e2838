"""What the two ways of :mod:`padless.attention.blocked` share: buffers, scaling, torch's fused softmax.

Legend: H head width.
"""

import math
from typing import Any

import torch
from torch import Tensor

# Segments are handled as if they were whole multiples of this. Products of bf16 matrices are faster in whole tiles
# (AMX), and oneDNN builds the few shapes that are left once, where it would build and keep kernels for every length.
TILE_ROWS = 32
PIECE_SCORES = 1 << 19  # scores of one buffer: 1 MiB in bf16, which stays in a core's second-level cache

_aten: Any = torch.ops.aten  # operators with ``out``, which torch's functions do not offer


class Scratch:
    """Buffers that one piece after the other writes its scores into, so that they stay in the cache.

    Args:
        like: gives dtype and device.
        size: scores of the largest piece.
        count: how many are needed at once.
    """

    def __init__(self, like: Tensor, size: int, count: int) -> None:
        self._buffers = [like.new_empty(size) for _ in range(count)]

    def take(self, which: int, *shape: int) -> Tensor:
        """Return buffer ``which`` in this shape; what it held is lost."""
        return self._buffers[which][: math.prod(shape)].view(shape)


def scaled(x: Tensor) -> Tensor:
    """Return x H ** -0.5, so that products of queries and keys are scores."""
    return x * x.shape[-1] ** -0.5


def softmax(scores: Tensor, out: Tensor) -> Tensor:
    """Put the softmax over the last dimension into ``out`` and return it."""
    return _aten._softmax.out(scores, -1, False, out=out)


def softmax_backward_(grad: Tensor, probs: Tensor) -> None:
    """Turn the gradient of probabilities into that of scores, in place."""
    _aten._softmax_backward_data.out(grad, probs, -1, probs.dtype, grad_input=grad)
