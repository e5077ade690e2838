"""Local layers of :mod:`padless.attention.blocked`: a packed row as overlapping blocks, linear in T.

Block r holds B tokens and gets scores of the W = B + 2 reach keys around it. Of these a query sees a stretch, bounded
by window and segment, the same in all local layers. The backward pass computes them again: kept is one number a query.

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
from padless.attention.in_pieces import Scratch
from padless.kernels.native_rows import add
from padless.kernels.native_scores import divide, exponentiate, log_sum, score_gradient
from padless.kernels.tiled_attention import SPARE_ROWS

_LEAST_BLOCK_TOKENS = 32


@dataclass(frozen=True)
class Rows:
    """How the rows of one batch lie for one window.

    Args:
        num_tokens: T.
        reach: tokens seen to each side; where whole segments are, 0, or in tiles T.
        block_tokens: B; 0 where there are none.
        num_blocks: R; 0 where there are none.
        in_tiles: whether :mod:`padless.kernels.tiled_attention` computes it: segment by segment, without blocks.
    """

    num_tokens: int
    reach: int
    block_tokens: int = 0
    num_blocks: int = 0
    in_tiles: bool = False

    @property
    def is_local(self) -> bool:
        """Whether a window hides anything."""
        return self.num_blocks > 0

    @property
    def num_rows(self) -> int:
        """P: room for whole blocks and the windows beyond them, or for what is read behind the last segment."""
        if self.is_local:
            return self.num_blocks * self.block_tokens + 2 * self.reach
        return self.num_tokens + (SPARE_ROWS if self.in_tiles else in_pieces.TILE_ROWS)

    @property
    def num_output_rows(self) -> int:
        """Rows of the output's gradient."""
        return self.num_rows if self.in_tiles else self.num_tokens

    @property
    def window_keys(self) -> int:
        """W."""
        return self.block_tokens + 2 * self.reach

    @property
    def own(self) -> slice:
        """Where the T tokens are among the P rows."""
        first = self.reach if self.is_local else 0
        return slice(first, first + self.num_tokens)


def plan_rows(layout: SegmentLayout, window_tokens: int | None, *, in_tiles: bool) -> Rows:
    """Return how rows lie for this window; a window that hides nothing, or less than it costs, needs no blocks."""
    reach = window_reach(window_tokens)
    if in_tiles:
        return Rows(layout.num_tokens, layout.num_tokens if reach is None else reach, in_tiles=True)
    if reach is None or reach >= layout.max_seqlen - 1:
        return Rows(layout.num_tokens, 0)
    block = max(_LEAST_BLOCK_TOKENS, reach)
    return Rows(layout.num_tokens, reach, block, -(-layout.num_tokens // block))


def _windows(x_PH: Tensor, rows: Rows, start: int, stop: int) -> Tensor:
    """Return a copy of the windows of blocks ``start`` to ``stop`` of one head, x_rWH: they overlap, and every product
    would copy them for itself."""
    width = x_PH.shape[-1]
    return x_PH.as_strided(
        (stop - start, rows.window_keys, width),
        (rows.block_tokens * width, width, 1),
        x_PH.storage_offset() + start * rows.block_tokens * width,
    ).contiguous()


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


def _bounds(layout: SegmentLayout, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the first key each query sees among those of its block, and where they end: int32 [R B], twice."""

    def build() -> tuple[Tensor, Tensor]:
        segment_T, tokens_T = layout.host_segment_ids_T(), np.arange(rows.num_tokens)
        window_T = tokens_T // rows.block_tokens * rows.block_tokens - rows.reach
        starts_T = layout.starts_S[segment_T]
        ends_T = starts_T + layout.lengths_S[segment_T]
        bounds = np.zeros((2, rows.num_blocks * rows.block_tokens), dtype=np.int32)  # rows beyond the tokens see none
        bounds[0, : rows.num_tokens] = np.maximum(starts_T, tokens_T - rows.reach) - window_T
        bounds[1, : rows.num_tokens] = np.minimum(ends_T, tokens_T + rows.reach + 1) - window_T
        first, stop = layout.to_device(bounds)
        return first, stop

    return layout.cached(("blocked_bounds", rows.reach), build)


def attend_local(qkv_3NPH: Tensor, layout: SegmentLayout, rows: Rows, out_NTH: Tensor) -> Tensor:
    """Fill ``out_NTH`` and return the log of each query's sum of exponentials, fp32 [N, R B]."""
    _, num_heads, _, width = qkv_3NPH.shape
    first_P, stop_P = _bounds(layout, rows)
    block, keys = rows.block_tokens, rows.window_keys
    largest, total = (torch.empty((num_heads, rows.num_blocks * block), dtype=torch.float32) for _ in range(2))
    scratch = Scratch(qkv_3NPH, min(rows.num_blocks, _blocks_at_once(rows)) * block * keys, 1)
    for head, start, stop in _pieces(rows, num_heads):
        q_PH, k_PH, v_PH = qkv_3NPH[:, head]
        some = slice(start * block, stop * block)
        scores_rBW = scratch.take(0, stop - start, block, keys)
        k_rHW = _windows(k_PH, rows, start, stop).transpose(1, 2)
        torch.bmm(_blocks_of(q_PH, rows, start, stop), k_rHW, out=scores_rBW)
        exponentiate(scores_rBW.view(-1, keys), first_P[some], stop_P[some], largest[head, some], total[head, some])
        out_rBH = torch.bmm(scores_rBW, _windows(v_PH, rows, start, stop))
        divide(out_rBH.view(-1, width), total[head, some], out_NTH[head, some])
    return log_sum(largest, total)


def attend_local_backward(
    grad_out_NTH: Tensor, delta_NT: Tensor, qkv_3NPH: Tensor, lse_NP: Tensor, layout: SegmentLayout, rows: Rows
) -> Tensor:
    """Return the gradient of ``qkv_3NPH``; its rows beyond the tokens mean nothing."""
    num_heads, num_tokens, width = grad_out_NTH.shape
    grad_3NPH = torch.zeros_like(qkv_3NPH)
    first_P, stop_P = _bounds(layout, rows)
    block, keys = rows.block_tokens, rows.window_keys
    scratch = Scratch(qkv_3NPH, min(rows.num_blocks, _blocks_at_once(rows)) * block * keys, 2)
    padded_PH, delta_P = grad_out_NTH.new_zeros((rows.num_blocks * block, width)), lse_NP.new_zeros(lse_NP.shape[1])
    previous = -1
    for head, start, stop in _pieces(rows, num_heads):
        if head != previous:
            previous = head
            padded_PH[:num_tokens], delta_P[:num_tokens] = grad_out_NTH[head], delta_NT[head]
        q_PH, k_PH, v_PH = qkv_3NPH[:, head]
        some = slice(start * block, stop * block)
        grad_rBH, q_rBH = padded_PH[some].view(-1, block, width), _blocks_of(q_PH, rows, start, stop)
        k_rWH, v_rWH = (_windows(x_PH, rows, start, stop) for x_PH in (k_PH, v_PH))
        scores_rBW, grad_scores_rBW = (scratch.take(which, stop - start, block, keys) for which in range(2))
        torch.bmm(q_rBH, k_rWH.transpose(1, 2), out=scores_rBW)
        torch.bmm(grad_rBH, v_rWH.transpose(1, 2), out=grad_scores_rBW)
        scores_RW, grad_scores_RW = scores_rBW.view(-1, keys), grad_scores_rBW.view(-1, keys)
        score_gradient(scores_RW, grad_scores_RW, first_P[some], stop_P[some], lse_NP[head, some], delta_P[some])
        torch.bmm(grad_scores_rBW, k_rWH, out=_blocks_of(grad_3NPH[0, head], rows, start, stop))
        _add_windows(grad_3NPH[1, head], torch.bmm(grad_scores_rBW.transpose(1, 2), q_rBH), rows, start)
        _add_windows(grad_3NPH[2, head], torch.bmm(scores_rBW.transpose(1, 2), grad_rBH), rows, start)
    return grad_3NPH


def _add_windows(total_PH: Tensor, x_rWH: Tensor, rows: Rows, start: int) -> None:
    """Add windows where they lie; they overlap, so block-wide strips of them are added one after the other."""
    block, width = rows.block_tokens, total_PH.shape[-1]
    for first in range(0, rows.window_keys, block):
        strip_rE = x_rWH[:, first : first + block].flatten(1)
        begin = (start * block + first) * width
        total_rE = total_PH.as_strided(strip_rE.shape, (block * width, 1), total_PH.storage_offset() + begin)
        add(total_rE, strip_rE, total_rE)
