"""A packed row as overlapping blocks: the plan of :mod:`padless.attention.sdpa` for local layers.

The row is cut into blocks of B tokens, B at least the window's reach; block i sees blocks i-1, i, i+1 through one mask
of segments and window that all local layers share. Cost is linear in T, whatever the lengths.

    keys      | i-1 |  i  | i+1 |
    queries         |  i  |               K = 3 B keys a query

Legend: T packed tokens, R blocks, B tokens a block, K = 3 B keys a block, N heads, H head width, 3 = query, key, value,
P = (R + 2) B rows with a block of padding before and the rest after.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout

_LEAST_BLOCK_TOKENS = 32


def block_tokens(reach: int) -> int:
    """Return B for a window of ``reach`` tokens to each side."""
    return max(_LEAST_BLOCK_TOKENS, reach)


def num_blocks(num_tokens: int, reach: int) -> int:
    """Return R."""
    return -(-num_tokens // block_tokens(reach))


def band_scores(num_tokens: int, reach: int) -> int:
    """Return the entries of one head's score matrices."""
    return num_blocks(num_tokens, reach) * 3 * block_tokens(reach) ** 2


def is_seen_RBK(layout: SegmentLayout, reach: int) -> np.ndarray:
    """Return which keys of its window each query sees.

    Padding belongs to segment -1, so that its queries at the end of the row see at least themselves.
    """
    block, blocks = block_tokens(reach), num_blocks(layout.num_tokens, reach)
    segment_P = np.full((blocks + 2) * block, -1, dtype=np.int64)
    segment_P[block : block + layout.num_tokens] = layout.host_segment_ids_T()
    segment_RB = segment_P.reshape(blocks + 2, block)
    segment_RK = np.concatenate([segment_RB[i : blocks + i] for i in range(3)], axis=1)
    is_near_BK = np.abs(np.arange(block)[:, None] + block - np.arange(3 * block)[None, :]) <= reach
    return (segment_RB[1:-1, :, None] == segment_RK[:, None, :]) & is_near_BK


def _window_view(rows_P3NH: Tensor, which: int, blocks: int, block: int) -> Tensor:
    """Return key (1) or value (2) of every window as x_RNKH, without copying: windows overlap in memory."""
    row, slot, head, feature = rows_P3NH.stride()
    return rows_P3NH.as_strided(
        (blocks, rows_P3NH.shape[2], 3 * block, rows_P3NH.shape[3]),
        (block * row, head, row, feature),
        rows_P3NH.storage_offset() + which * slot,
    )


class ToBand(torch.autograd.Function):
    """Packed rows to the queries of each block and the keys and values of its window."""

    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return q_RNBH, k_RNKH, v_RNKH: views of one padded copy."""
        num_tokens = qkv_T3NH.shape[0]
        block, blocks = block_tokens(reach), num_blocks(num_tokens, reach)
        ctx.block, ctx.num_tokens = block, num_tokens
        rows_P3NH = qkv_T3NH.new_empty(((blocks + 2) * block, *qkv_T3NH.shape[1:]))
        rows_P3NH[:block] = 0
        rows_P3NH[block : block + num_tokens] = qkv_T3NH
        rows_P3NH[block + num_tokens :] = 0
        q_RNBH = rows_P3NH[block:-block, 0].unflatten(0, (blocks, block)).transpose(1, 2)
        return q_RNBH, _window_view(rows_P3NH, 1, blocks, block), _window_view(rows_P3NH, 2, blocks, block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of qkv_T3NH: a key's is the sum over the three windows that hold it."""
        grad_q_RNBH, *grad_windows = grads
        blocks, num_heads, block, width = grad_q_RNBH.shape
        grad_RB3NH = grad_q_RNBH.new_empty((blocks, block, 3, num_heads, width))
        grad_RB3NH[:, :, 0] = grad_q_RNBH.transpose(1, 2)
        for which, grad_RNKH in enumerate(grad_windows, start=1):
            before, own, after = grad_RNKH.transpose(1, 2).split(block, dim=1)
            total_RBNH = grad_RB3NH[:, :, which]
            total_RBNH.copy_(own)
            total_RBNH[:-1] += before[1:]
            total_RBNH[1:] += after[:-1]
        return grad_RB3NH.flatten(0, 1)[: ctx.num_tokens], None
