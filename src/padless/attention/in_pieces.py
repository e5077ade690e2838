"""What the two ways of :mod:`padless.attention.blocked` share: sizes and buffers."""

import math

from torch import Tensor

# Segments are handled as if they were whole multiples of this. Products of bf16 matrices are faster in whole tiles
# (AMX), and oneDNN builds the few shapes that are left once, where it would build and keep kernels for every length.
TILE_ROWS = 32
PIECE_SCORES = 1 << 19  # scores of one buffer: 1 MiB in bf16, which stays in a core's second-level cache


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
