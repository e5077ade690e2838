"""Attention on a CPU, in pieces that stay in a core's cache: matrix products and softmax, forward and backward by hand.

torch's CPU flash kernel spends about five nanoseconds a score in its backward pass; batched matrix products with
torch's fused softmax and its fused gradient spend about two (``padless bench attention``). Two ways:

- *local*: the row is cut into blocks of B tokens; block r sees the W = B + 2 reach keys around it, through a mask of
  segments and window that all local layers share. Cost is linear in T. The probabilities are kept for the backward
  pass: W a token and head.
- *whole*: segments of similar length together (:func:`padless.attention.groups.plan_groups`), the scores of a few
  heads and queries at a time; probabilities are computed again in the backward pass, so that memory is linear in T too.

Both work on heads-first rows, so that every product reads and writes plain matrices:

    qkv_3NPH    | reach zeros | T tokens | zeros up to whole blocks | reach zeros |       P = R B + 2 reach

Legend: T packed tokens, P padded rows, N heads, H head width, R blocks, B tokens a block, W keys a block, G segments
of a group, L places a segment, Q queries at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout, window_reach
from padless.attention.groups import Group, GroupPlan, plan_groups
from padless.errors import ConfigError

_LEAST_BLOCK_TOKENS = 32
_LEAST_QUERIES = 64
_PIECE_SCORES = 1 << 19  # scores of one buffer: 1 MiB in bf16, which stays in a core's second-level cache


_aten: Any = torch.ops.aten  # operators with ``out``, which torch's functions do not offer
_softmax = _aten._softmax.out


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
        return self.reach > 0

    @property
    def num_rows(self) -> int:
        """P."""
        return self.num_blocks * self.block_tokens + 2 * self.reach if self.is_local else self.num_tokens

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


def new_rows(rows: Rows, num_heads: int, width: int, like: Tensor) -> Tensor:
    """Return qkv_3NPH to be filled at ``rows.own``; what lies around it is zero."""
    qkv_3NPH = like.new_empty((3, num_heads, rows.num_rows, width))
    qkv_3NPH[:, :, : rows.own.start] = 0
    qkv_3NPH[:, :, rows.own.stop :] = 0
    return qkv_3NPH


def attend_rows(qkv_3NPH: Tensor, layout: SegmentLayout, rows: Rows, out_NTH: Tensor, keep: bool) -> Tensor | None:
    """Fill ``out_NTH`` and return what :func:`attend_rows_backward` needs beside it, if ``keep``.

    Args:
        qkv_3NPH: rotated queries and keys, and values, laid out by ``rows``.
        layout: the segments.
        rows: from :func:`plan_rows`.
        out_NTH: gets the result.
        keep: whether a backward pass follows.
    """
    if rows.is_local:
        return _local(qkv_3NPH, layout, rows, out_NTH, keep)
    _whole(qkv_3NPH, layout, out_NTH)
    return None


def attend_rows_backward(
    grad_out_NTH: Tensor, qkv_3NPH: Tensor, kept: Tensor | None, layout: SegmentLayout, rows: Rows
) -> Tensor:
    """Return the gradient of ``qkv_3NPH`` at ``rows.own``: a view of shape [3, N, T, H].

    Args:
        grad_out_NTH: gradient of the output, heads first.
        qkv_3NPH: as given to :func:`attend_rows`.
        kept: what it returned.
        layout: the segments.
        rows: from :func:`plan_rows`.
    """
    if kept is not None:
        return _local_backward(grad_out_NTH, qkv_3NPH, kept, rows)
    return _whole_backward(grad_out_NTH, qkv_3NPH, layout)


def _scaled(x: Tensor) -> Tensor:
    return x * x.shape[-1] ** -0.5


def _windows(x_PH: Tensor, rows: Rows, start: int, stop: int) -> Tensor:
    """Return the windows of blocks ``start`` to ``stop`` of one head as x_rWH, without copying: they overlap."""
    width = x_PH.shape[-1]
    return x_PH.as_strided(
        (stop - start, rows.window_keys, width),
        (rows.block_tokens * width, width, 1),
        x_PH.storage_offset() + start * rows.block_tokens * width,
    )


def _blocks_at_once(rows: Rows) -> int:
    return max(1, _PIECE_SCORES // (rows.block_tokens * rows.window_keys))


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


def _local(qkv_3NPH: Tensor, layout: SegmentLayout, rows: Rows, out_NTH: Tensor, keep: bool) -> Tensor | None:
    _, num_heads, _, width = qkv_3NPH.shape
    bias_RBW = _hidden_bias(layout, rows, qkv_3NPH.dtype)
    kept = qkv_3NPH.new_empty((num_heads, *bias_RBW.shape)) if keep else None
    block, keys = rows.block_tokens, rows.window_keys
    scratch = Scratch(qkv_3NPH, min(rows.num_blocks, _blocks_at_once(rows)) * block * keys, 1)
    for head, start, stop in _pieces(rows, num_heads):
        q_PH, k_PH, v_PH = qkv_3NPH[:, head]
        q_rBH = _scaled(_blocks_of(q_PH, rows, start, stop))
        k_rHW = _windows(k_PH, rows, start, stop).transpose(1, 2)
        scores_rBW = scratch.take(0, stop - start, block, keys)
        torch.baddbmm(bias_RBW[start:stop], q_rBH, k_rHW, out=scores_rBW)
        target = scores_rBW if kept is None else kept[head, start:stop]
        probs_rBW = _softmax(scores_rBW, -1, False, out=target)
        out_rBH = torch.bmm(probs_rBW, _windows(v_PH, rows, start, stop))
        own = out_NTH[head, start * block : stop * block]
        own.copy_(out_rBH.view(-1, width)[: own.shape[0]])
    return kept


def _local_backward(grad_out_NTH: Tensor, qkv_3NPH: Tensor, kept: Tensor, rows: Rows) -> Tensor:
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
        _softmax_backward_(grad_scores_rBW, probs_rBW)
        grad_q_rBH = torch.bmm(grad_scores_rBW, _windows(k_PH, rows, start, stop))
        q_rBH = _scaled(_blocks_of(q_PH, rows, start, stop))
        grad_k_rWH = torch.bmm(grad_scores_rBW.transpose(1, 2), q_rBH)
        torch.mul(grad_q_rBH, width**-0.5, out=_blocks_of(grad_3NPH[0, head], rows, start, stop))
        _add_windows(grad_3NPH[1, head], grad_k_rWH, rows, start)
        _add_windows(grad_3NPH[2, head], grad_v_rWH, rows, start)
    return grad_3NPH[:, :, rows.own]


def _softmax_backward_(grad: Tensor, probs: Tensor) -> None:
    """Turn the gradient of probabilities into that of scores, in place."""
    _aten._softmax_backward_data.out(grad, probs, -1, probs.dtype, grad_input=grad)


def _add_windows(total_PH: Tensor, x_rWH: Tensor, rows: Rows, start: int) -> None:
    """Add windows where they lie; they overlap, so block-wide strips of them are added one after the other."""
    block, width = rows.block_tokens, total_PH.shape[-1]
    for first in range(0, rows.window_keys, block):
        strip_rKH = x_rWH[:, first : first + block]
        view = total_PH.as_strided(
            strip_rKH.shape, (block * width, width, 1), total_PH.storage_offset() + (start * block + first) * width
        )
        view.add_(strip_rKH)


@dataclass(frozen=True)
class _Places:
    """Where the rows of one group are among the tokens, and which of its padded places are real."""

    start: int | None  # of a group of one segment, which needs no copying
    places: int  # L
    token_p: Tensor  # int64 [G L] token that each place holds; padding repeats a segment's last
    real_r: Tensor  # int64 places that are not padding
    is_padded: bool

    def take(self, x_NTH: Tensor, zero_padding: bool = False) -> Tensor:
        """Return the group's rows as x_eLH, e = head x segment."""
        if self.start is not None:
            return x_NTH[:, self.start : self.start + self.places]
        x_NPH = x_NTH.index_select(1, self.token_p)
        if zero_padding and self.is_padded:
            real_NRH = x_NPH.index_select(1, self.real_r)
            x_NPH = torch.zeros_like(x_NPH).index_copy_(1, self.real_r, real_NRH)
        return x_NPH.view(-1, self.places, x_NTH.shape[-1])

    def put(self, total_NTH: Tensor, x_eLH: Tensor) -> None:
        """Write the group's rows to where its tokens are."""
        if self.start is not None:
            total_NTH[:, self.start : self.start + self.places] = x_eLH
            return
        x_NPH = x_eLH.reshape(total_NTH.shape[0], -1, total_NTH.shape[-1])
        if self.is_padded:
            x_NPH = x_NPH.index_select(1, self.real_r)
            total_NTH.index_copy_(1, self.token_p.index_select(0, self.real_r), x_NPH)
        else:
            total_NTH.index_copy_(1, self.token_p, x_NPH)


def _places(layout: SegmentLayout, plan: GroupPlan, number: int) -> _Places:
    def build() -> _Places:
        group, begin = plan.groups[number], sum(plan.sizes[:number])
        lengths_G = layout.lengths_S[group.segments_G]
        start = int(layout.starts_S[group.segments_G[0]]) if len(lengths_G) == 1 else None
        is_real_p = (np.arange(group.places) < lengths_G[:, None]).ravel()
        token_p = plan.source_P[begin : begin + plan.sizes[number]]
        real_r = layout.to_device(np.flatnonzero(is_real_p))
        return _Places(start, group.places, token_p, real_r, not bool(is_real_p.all()))

    return layout.cached(("blocked_places", number), build)


def _padding_bias(layout: SegmentLayout, group: Group, number: int, like_eLH: Tensor) -> Tensor | None:
    """Return minus infinity at the padding of each segment's keys, bias_e1L, or None where there is no padding."""

    def build() -> Tensor | None:
        lengths_G = layout.lengths_S[group.segments_G]
        is_padding_GL = np.arange(group.places) >= lengths_G[:, None]
        if not is_padding_GL.any():
            return None
        bias_GL = torch.zeros(is_padding_GL.shape, dtype=like_eLH.dtype, device=layout.device)
        bias_GL.masked_fill_(layout.to_device(is_padding_GL), float("-inf"))
        return bias_GL.repeat(like_eLH.shape[0] // len(lengths_G), 1)[:, None]

    return layout.cached(("blocked_padding", number, like_eLH.shape[0], like_eLH.dtype), build)


def _probabilities(q_eQH: Tensor, k_eLH: Tensor, bias_e1L: Tensor | None, scores_eQL: Tensor) -> Tensor:
    """Put the probabilities into ``scores_eQL`` and return it."""
    k_eHL = k_eLH.transpose(1, 2)
    if bias_e1L is None:
        torch.bmm(q_eQH, k_eHL, out=scores_eQL)
    else:
        torch.baddbmm(bias_e1L, q_eQH, k_eHL, out=scores_eQL)
    return _softmax(scores_eQL, -1, False, out=scores_eQL)


def _largest_cut(entries: int, places: int) -> int:
    queries = min(places, max(_LEAST_QUERIES, _PIECE_SCORES // places))
    return min(entries, max(1, _PIECE_SCORES // (queries * places))) * queries * places


def _cuts(entries: int, places: int) -> Iterator[tuple[slice, slice]]:
    """Yield the entries (heads x segments) and queries of a group that are computed at once."""
    queries = min(places, max(_LEAST_QUERIES, _PIECE_SCORES // places))
    step = max(1, _PIECE_SCORES // (queries * places))
    for first in range(0, entries, step):
        for query in range(0, places, queries):
            yield slice(first, min(entries, first + step)), slice(query, min(places, query + queries))


def _whole(qkv_3NTH: Tensor, layout: SegmentLayout, out_NTH: Tensor) -> None:
    plan = plan_groups(layout)
    for number, group in enumerate(plan.groups):
        places = _places(layout, plan, number)
        q_eLH, k_eLH, v_eLH = (places.take(x_NTH) for x_NTH in qkv_3NTH)
        bias_e1L = _padding_bias(layout, group, number, q_eLH)
        out_eLH = torch.empty_like(q_eLH, memory_format=torch.contiguous_format)
        scratch = Scratch(q_eLH, _largest_cut(q_eLH.shape[0], places.places), 1)
        for some, queries in _cuts(q_eLH.shape[0], places.places):
            bias = None if bias_e1L is None else bias_e1L[some]
            q_eQH = _scaled(q_eLH[some, queries])
            probs_eQL = _probabilities(q_eQH, k_eLH[some], bias, scratch.take(0, *q_eQH.shape[:2], places.places))
            out_eLH[some, queries] = torch.bmm(probs_eQL, v_eLH[some])
        places.put(out_NTH, out_eLH)


def _whole_backward(grad_out_NTH: Tensor, qkv_3NTH: Tensor, layout: SegmentLayout) -> Tensor:
    plan, width = plan_groups(layout), qkv_3NTH.shape[-1]
    grad_3NTH = torch.empty_like(qkv_3NTH)
    for number, group in enumerate(plan.groups):
        places = _places(layout, plan, number)
        q_eLH, k_eLH, v_eLH = (places.take(x_NTH) for x_NTH in qkv_3NTH)
        grad_out_eLH = places.take(grad_out_NTH, zero_padding=True)
        bias_e1L = _padding_bias(layout, group, number, q_eLH)
        grad_q_eLH, grad_k_eLH, grad_v_eLH = (torch.empty_like(grad_out_eLH) for _ in range(3))
        scratch = Scratch(q_eLH, _largest_cut(q_eLH.shape[0], places.places), 2)
        for some, queries in _cuts(q_eLH.shape[0], places.places):
            bias = None if bias_e1L is None else bias_e1L[some]
            q_eQH, grad_eQH = _scaled(q_eLH[some, queries]), grad_out_eLH[some, queries]
            shape = *q_eQH.shape[:2], places.places
            probs_eQL = _probabilities(q_eQH, k_eLH[some], bias, scratch.take(0, *shape))
            grad_scores_eQL = torch.bmm(grad_eQH, v_eLH[some].transpose(1, 2), out=scratch.take(1, *shape))
            _sum_pieces(grad_v_eLH[some], torch.bmm(probs_eQL.transpose(1, 2), grad_eQH), queries)
            _softmax_backward_(grad_scores_eQL, probs_eQL)
            torch.mul(torch.bmm(grad_scores_eQL, k_eLH[some]), width**-0.5, out=grad_q_eLH[some, queries])
            _sum_pieces(grad_k_eLH[some], torch.bmm(grad_scores_eQL.transpose(1, 2), q_eQH), queries)
        for which, grad_eLH in enumerate((grad_q_eLH, grad_k_eLH, grad_v_eLH)):
            places.put(grad_3NTH[which], grad_eLH)
    return grad_3NTH


def _sum_pieces(total: Tensor, piece: Tensor, queries: slice) -> None:
    """Add what one piece of the queries gives to keys or values; the first piece sets it."""
    if queries.start == 0:
        total.copy_(piece)
    else:
        total.add_(piece)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None, keep: bool) -> Tensor:
        rows = plan_rows(layout, window_tokens)
        num_tokens, _, num_heads, width = qkv_T3NH.shape
        qkv_3NPH = new_rows(rows, num_heads, width, qkv_T3NH)
        qkv_3NPH[:, :, rows.own] = qkv_T3NH.permute(1, 2, 0, 3)
        out_TNH = qkv_T3NH.new_empty((num_tokens, num_heads, width))
        kept = attend_rows(qkv_3NPH, layout, rows, out_TNH.transpose(0, 1), keep)
        if keep:
            ctx.save_for_backward(qkv_3NPH, *([] if kept is None else [kept]))
            ctx.layout, ctx.rows = layout, rows
        return out_TNH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv_3NPH, *kept = ctx.saved_tensors
        grad_NTH = grads[0].transpose(0, 1).contiguous()
        grad_3NTH = attend_rows_backward(grad_NTH, qkv_3NPH, kept[0] if kept else None, ctx.layout, ctx.rows)
        return grad_3NTH.permute(2, 0, 1, 3).contiguous(), None, None, None


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised.

    Raises:
        ConfigError: a tensor that is not on a CPU.
    """
    layout.check(qkv_T3NH)
    if qkv_T3NH.device.type != "cpu":
        raise ConfigError(
            f"attention backend blocked was given a tensor on {qkv_T3NH.device}",
            "set hardware.attention_backend=auto, which takes it on a CPU only",
        )
    keep = torch.is_grad_enabled() and qkv_T3NH.requires_grad
    return cast(Tensor, _Attend.apply(qkv_T3NH, layout, window_tokens, keep))
