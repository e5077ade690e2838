"""Local layers of :mod:`padless.attention.blocked`: a packed row as overlapping blocks, linear in T.

Block r holds B tokens and sees the W = B + 2 reach keys around it, through a mask of segments and window that all local
layers share. The probabilities are kept for the backward pass: W a token and head.

Legend: T packed tokens, P padded rows, N heads, H head width, R blocks, r some of them, B tokens a block, W keys a
block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from padless.attention import in_pieces
from padless.attention.api import SegmentLayout, window_reach
from padless.attention.in_pieces import Scratch, scaled, softmax, softmax_backward_

_LEAST_BLOCK_TOKENS = 32


@dataclass(frozen=True)
class Rows:
    """How the rows of one batch lie for one window.

    Args:
        num_tokens: T.
        reach: tokens seen to each side, or 0 where whole segments are.
        block_tokens: B.
        num_blocks: R.
    """

    num_tokens: int
    reach: int
    block_tokens: int
    num_blocks: int

    @property
    def is_local(self) -> bool:
        """Whether a window hides anything."""
        return self.num_blocks > 0

    @property
    def num_rows(self) -> int:
        """P: room for whole blocks and the windows beyond them, or for whole tiles behind the last segment."""
        if self.is_local:
            return self.num_blocks * self.block_tokens + 2 * self.reach
        return self.num_tokens + in_pieces.TILE_ROWS

    @property
    def window_keys(self) -> int:
        """W."""
        return self.block_tokens + 2 * self.reach

    @property
    def own(self) -> slice:
        """Where the T tokens are among the P rows."""
        return slice(self.reach, self.reach + self.num_tokens)


def plan_rows(layout: SegmentLayout, window_tokens: int | None) -> Rows:
    """Return how rows lie for this window; a window that hides nothing, or less than it costs, needs no blocks."""
    reach = window_reach(window_tokens)
    if reach is None or reach >= layout.max_seqlen - 1:
        return Rows(layout.num_tokens, 0, 0, 0)
    block = max(_LEAST_BLOCK_TOKENS, reach)
    return Rows(layout.num_tokens, reach, block, -(-layout.num_tokens // block))


def _windows(x_PH: Tensor, rows: Rows, start: int, stop: int) -> Tensor:
    """Return the windows of blocks ``start`` to ``stop`` of one head as x_rWH, without copying: they overlap."""
    width = x_PH.shape[-1]
    return x_PH.as_strided(
        (stop - start, rows.window_keys, width),
        (rows.block_tokens * width, width, 1),
        x_PH.storage_offset() + start * rows.block_tokens * width,
    )


def _blocks_at_once(rows: Rows) -> int:
    return max(1, in_pieces.PIECE_SCORES // (rows.block_tokens * rows.window_keys))


def _pieces(rows: Rows, num_heads: int) -> Iterator[tuple[int, int, int]]:
    """Yield head, first and last block of what is computed at once."""
    step = _blocks_at_once(rows)
    for head in range(num_heads):
        for start in range(0, rows.num_blocks, step):
            yield head, start, min(rows.num_blocks, start + step)


def _blocks_of(x_PH: Tensor, rows: Rows, start: int, stop: int) -> Tensor:
    """Return the rows of blocks ``start`` to ``stop`` as x_rBH."""
    first = rows.reach + start * rows.block_tokens
    return x_PH[first : first + (stop - start) * rows.block_tokens].view(stop - start, rows.block_tokens, -1)


def _hidden_bias(layout: SegmentLayout, rows: Rows, dtype: torch.dtype) -> Tensor:
    """Return 0 where a query sees a key of its window and minus infinity elsewhere, bias_RBW."""

    def build() -> Tensor:
        segment_P = np.full(rows.num_rows, -1, dtype=np.int32)
        segment_P[rows.own] = layout.host_segment_ids_T()
        block, keys = rows.block_tokens, rows.window_keys
        windows = np.lib.stride_tricks.sliding_window_view(segment_P, keys)[::block]
        own_RB = segment_P[rows.reach : rows.reach + rows.num_blocks * block].reshape(-1, block)
        is_near_BW = np.abs(np.arange(block)[:, None] + rows.reach - np.arange(keys)[None, :]) <= rows.reach
        is_seen_RBW = (own_RB[:, :, None] == windows[: rows.num_blocks, None, :]) & is_near_BW
        bias = torch.zeros(is_seen_RBW.shape, dtype=dtype, device=layout.device)
        return bias.masked_fill_(~layout.to_device(is_seen_RBW), float("-inf"))

    return layout.cached(("blocked_bias", rows.reach, dtype), build)


def attend_local(qkv_3NPH: Tensor, layout: SegmentLayout, rows: Rows, out_NTH: Tensor, keep: bool) -> Tensor | None:
    """Fill ``out_NTH`` and return the probabilities, kept_NRBW, if ``keep``."""
    _, num_heads, _, width = qkv_3NPH.shape
    bias_RBW = _hidden_bias(layout, rows, qkv_3NPH.dtype)
    kept = qkv_3NPH.new_empty((num_heads, *bias_RBW.shape)) if keep else None
    block, keys = rows.block_tokens, rows.window_keys
    scratch = Scratch(qkv_3NPH, min(rows.num_blocks, _blocks_at_once(rows)) * block * keys, 1)
    for head, start, stop in _pieces(rows, num_heads):
        q_PH, k_PH, v_PH = qkv_3NPH[:, head]
        q_rBH = scaled(_blocks_of(q_PH, rows, start, stop))
        k_rHW = _windows(k_PH, rows, start, stop).transpose(1, 2)
        scores_rBW = scratch.take(0, stop - start, block, keys)
        torch.baddbmm(bias_RBW[start:stop], q_rBH, k_rHW, out=scores_rBW)
        target = scores_rBW if kept is None else kept[head, start:stop]
        probs_rBW = softmax(scores_rBW, target)
        out_rBH = torch.bmm(probs_rBW, _windows(v_PH, rows, start, stop))
        own = out_NTH[head, start * block : stop * block]
        own.copy_(out_rBH.view(-1, width)[: own.shape[0]])
    return kept


def attend_local_backward(grad_out_NTH: Tensor, qkv_3NPH: Tensor, kept: Tensor, rows: Rows) -> Tensor:
    """Return the gradient of ``qkv_3NPH`` at ``rows.own``."""
    _, num_heads, num_rows, width = qkv_3NPH.shape
    grad_3NPH = qkv_3NPH.new_zeros((3, num_heads, num_rows, width))
    block, num_tokens = rows.block_tokens, rows.num_tokens
    padded = grad_out_NTH.new_zeros((rows.num_blocks * block, width)) if num_tokens % block else None
    previous = -1
    grad_PH = grad_out_NTH[0]
    scratch = Scratch(qkv_3NPH, min(rows.num_blocks, _blocks_at_once(rows)) * block * rows.window_keys, 1)
    for head, start, stop in _pieces(rows, num_heads):
        if head != previous:
            previous, grad_PH = head, grad_out_NTH[head]
            if padded is not None:
                padded[:num_tokens] = grad_PH
                grad_PH = padded
        q_PH, k_PH, v_PH = qkv_3NPH[:, head]
        probs_rBW = kept[head, start:stop]
        grad_rBH = grad_PH[start * block : stop * block].view(stop - start, block, width)
        grad_scores_rBW = scratch.take(0, stop - start, block, rows.window_keys)
        torch.bmm(grad_rBH, _windows(v_PH, rows, start, stop).transpose(1, 2), out=grad_scores_rBW)
        grad_v_rWH = torch.bmm(probs_rBW.transpose(1, 2), grad_rBH)
        softmax_backward_(grad_scores_rBW, probs_rBW)
        grad_q_rBH = torch.bmm(grad_scores_rBW, _windows(k_PH, rows, start, stop))
        q_rBH = scaled(_blocks_of(q_PH, rows, start, stop))
        grad_k_rWH = torch.bmm(grad_scores_rBW.transpose(1, 2), q_rBH)
        torch.mul(grad_q_rBH, width**-0.5, out=_blocks_of(grad_3NPH[0, head], rows, start, stop))
        _add_windows(grad_3NPH[1, head], grad_k_rWH, rows, start)
        _add_windows(grad_3NPH[2, head], grad_v_rWH, rows, start)
    return grad_3NPH[:, :, rows.own]


def _add_windows(total_PH: Tensor, x_rWH: Tensor, rows: Rows, start: int) -> None:
    """Add windows where they lie; they overlap, so block-wide strips of them are added one after the other."""
    block, width = rows.block_tokens, total_PH.shape[-1]
    for first in range(0, rows.window_keys, block):
        strip_rKH = x_rWH[:, first : first + block]
        view = total_PH.as_strided(
            strip_rKH.shape, (block * width, width, 1), total_PH.storage_offset() + (start * block + first) * width
        )
        view.add_(strip_rKH)
