"""Global layers of :mod:`padless.attention.blocked`: segments of similar length together, a few heads at a time.

The backward pass computes the scores again; kept is one number a query, so that memory is linear in T.

Legend: T packed tokens, N heads, H head width, G segments of a group, L places a segment, Q queries at a time, e
heads x segments, p places of a group, r those that are real.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from padless.attention import in_pieces
from padless.attention.api import SegmentLayout
from padless.attention.groups import Group, GroupPlan, plan_groups
from padless.attention.in_pieces import Scratch
from padless.kernels.native_rows import move_rows
from padless.kernels.native_scores import divide, exponentiate, log_sum, score_gradient

_LEAST_QUERIES = 64
_LONG_ROWS = 1024


@dataclass(frozen=True)
class _Places:
    """Where the rows of one group are among the tokens, and which of its padded places are real.

    A group of one segment needs no copying: it takes in the rows that follow, up to a whole number of tiles. Those are
    hidden as keys, ignored as queries, and get no gradient.
    """

    start: int | None  # of a group of one segment
    rows: int  # tokens of a group of one segment
    places: int  # of each segment, padding included: L
    token_p: Tensor  # int32 [G L] token that each place holds; padding repeats a segment's last
    place_p: Tensor  # int32 0, 1, ... G L - 1
    real_r: Tensor  # int32 places that are not padding
    token_r: Tensor  # int32 tokens of these

    def take(self, x_NPH: Tensor) -> Tensor:
        """Return a copy of the group's rows as x_eLH, e = head x segment; products copy what is not contiguous."""
        if self.start is not None:
            return x_NPH[:, self.start : self.start + self.places].contiguous()
        x_NpH = x_NPH.new_empty((x_NPH.shape[0], len(self.token_p), x_NPH.shape[2]))
        move_rows(x_NPH, self.token_p, x_NpH, self.place_p)
        return x_NpH.view(-1, self.places, x_NPH.shape[2])

    def take_gradient(self, x_NTH: Tensor) -> Tensor:
        """Return the group's rows as x_eLH, zero where there is padding."""
        if self.start is not None:
            x_NLH = x_NTH.new_zeros((x_NTH.shape[0], self.places, x_NTH.shape[2]))
            x_NLH[:, : self.rows] = x_NTH[:, self.start : self.start + self.rows]
            return x_NLH
        x_NpH = x_NTH.new_zeros((x_NTH.shape[0], len(self.token_p), x_NTH.shape[2]))
        move_rows(x_NTH, self.token_r, x_NpH, self.real_r)
        return x_NpH.view(-1, self.places, x_NTH.shape[2])

    def put(self, total_NTH: Tensor, x_eLH: Tensor) -> None:
        """Write the group's rows to where its tokens are."""
        if self.start is not None:
            total_NTH[:, self.start : self.start + self.rows] = x_eLH[:, : self.rows]
            return
        move_rows(x_eLH.view(total_NTH.shape[0], -1, x_eLH.shape[2]), self.real_r, total_NTH, self.token_r)


def _places(layout: SegmentLayout, plan: GroupPlan, number: int) -> _Places:
    def build() -> _Places:
        group, begin = plan.groups[number], sum(plan.sizes[:number])
        lengths_G = layout.lengths_S[group.segments_G]
        if len(lengths_G) == 1:
            return _places_of_one(layout, int(group.segments_G[0]))
        is_real_p = (np.arange(group.places) < lengths_G[:, None]).ravel()
        token_p = plan.source_P[begin : begin + plan.sizes[number]].int()
        real_r = layout.to_device(np.flatnonzero(is_real_p).astype(np.int32))
        place_p = torch.arange(len(token_p), dtype=torch.int32)
        return _Places(None, group.places, group.places, token_p, place_p, real_r, token_p.index_select(0, real_r))

    return layout.cached(("blocked_places", number), build)


def _places_of_one(layout: SegmentLayout, segment: int) -> _Places:
    start, length = int(layout.starts_S[segment]), int(layout.lengths_S[segment])
    places = -(-length // in_pieces.TILE_ROWS) * in_pieces.TILE_ROWS
    none = torch.empty(0, dtype=torch.int32)
    return _Places(start, length, places, none, none, none, none)


def _bounds(layout: SegmentLayout, group: Group, number: int, num_heads: int) -> tuple[Tensor, Tensor]:
    """Return where the keys of each head and segment begin and end, int32 [e] twice."""

    def build() -> tuple[Tensor, Tensor]:
        stop_e = np.tile(layout.lengths_S[group.segments_G], num_heads).astype(np.int32)
        return layout.to_device(np.zeros_like(stop_e)), layout.to_device(stop_e)

    return layout.cached(("blocked_key_bounds", number, num_heads), build)


def _cut_size(entries: int, places: int) -> tuple[int, int]:
    """Return queries and entries at once: many queries of a long segment, since its keys are laid out for each cut."""
    scores = (2 if places <= _LONG_ROWS else 8) * in_pieces.PIECE_SCORES
    tile = in_pieces.TILE_ROWS
    queries = min(places, max(_LEAST_QUERIES, scores // places // tile * tile))
    return queries, min(entries, max(1, scores // (queries * places)))


def _largest_cut(entries: int, places: int) -> int:
    return math.prod(_cut_size(entries, places)) * places


def _cuts(entries: int, places: int) -> Iterator[tuple[slice, slice]]:
    """Yield the entries (heads x segments) and queries of a group that are computed at once."""
    queries, step = _cut_size(entries, places)
    for first in range(0, entries, step):
        for query in range(0, places, queries):
            yield slice(first, min(entries, first + step)), slice(query, min(places, query + queries))


def attend_whole(qkv_3NPH: Tensor, layout: SegmentLayout, out_NTH: Tensor) -> Tensor:
    """Fill ``out_NTH``: each token sees all of its segment.

    Returns:
        The log of each query's sum of exponentials, fp32, group by group as they are computed.
    """
    plan, width = plan_groups(layout, in_pieces.TILE_ROWS), qkv_3NPH.shape[-1]
    kept: list[Tensor] = []
    for number, group in enumerate(plan.groups):
        places = _places(layout, plan, number)
        q_eLH, k_eLH, v_eLH = (places.take(x_NPH) for x_NPH in qkv_3NPH)
        first_e, stop_e = _bounds(layout, group, number, qkv_3NPH.shape[1])
        out_eLH = torch.empty_like(q_eLH)
        largest_eL, total_eL = (torch.empty(out_eLH.shape[:2], dtype=torch.float32) for _ in range(2))
        scratch = Scratch(q_eLH, _largest_cut(q_eLH.shape[0], places.places), 1)
        for some, queries in _cuts(q_eLH.shape[0], places.places):
            q_eQH = q_eLH[some, queries]
            scores_eQL = scratch.take(0, *q_eQH.shape[:2], places.places)
            torch.bmm(q_eQH, k_eLH[some].transpose(1, 2), out=scores_eQL)
            total_R, largest_R = (each[some, queries].view(-1) for each in (total_eL, largest_eL))
            exponentiate(scores_eQL.view(-1, places.places), first_e[some], stop_e[some], largest_R, total_R)
            part_eQH = torch.bmm(scores_eQL, v_eLH[some])
            divide(part_eQH.view(-1, width), total_R, out_eLH[some, queries].view(-1, width))
        kept.append(log_sum(largest_eL, total_eL).view(-1))
        places.put(out_NTH, out_eLH)
    return torch.cat(kept)


def attend_whole_backward(
    grad_out_NTH: Tensor, delta_NT: Tensor, qkv_3NPH: Tensor, kept: Tensor, layout: SegmentLayout
) -> Tensor:
    """Return the gradient of ``qkv_3NPH``; its rows beyond the tokens mean nothing."""
    plan = plan_groups(layout, in_pieces.TILE_ROWS)
    num_heads, num_tokens, _ = grad_out_NTH.shape
    grad_3NPH = torch.empty_like(qkv_3NPH)
    begin = 0
    for number, group in enumerate(plan.groups):
        places = _places(layout, plan, number)
        q_eLH, k_eLH, v_eLH = (places.take(x_NPH) for x_NPH in qkv_3NPH)
        grad_out_eLH = places.take_gradient(grad_out_NTH)
        delta_eL = places.take_gradient(delta_NT[..., None]).view(grad_out_eLH.shape[:2])
        lse_eL = kept[begin : begin + delta_eL.numel()].view(delta_eL.shape)
        begin += delta_eL.numel()
        first_e, stop_e = _bounds(layout, group, number, num_heads)
        grad_q_eLH, grad_k_eLH, grad_v_eLH = (torch.empty_like(k_eLH) for _ in range(3))
        scratch = Scratch(q_eLH, _largest_cut(q_eLH.shape[0], places.places), 2)
        for some, queries in _cuts(q_eLH.shape[0], places.places):
            q_eQH, grad_eQH = q_eLH[some, queries], grad_out_eLH[some, queries]
            scores_eQL, grad_scores_eQL = (scratch.take(which, *q_eQH.shape[:2], places.places) for which in range(2))
            torch.bmm(q_eQH, k_eLH[some].transpose(1, 2), out=scores_eQL)
            torch.bmm(grad_eQH, v_eLH[some].transpose(1, 2), out=grad_scores_eQL)
            scores_RL, grad_scores_RL = (each.view(-1, places.places) for each in (scores_eQL, grad_scores_eQL))
            lse_R, delta_R = (each[some, queries].view(-1) for each in (lse_eL, delta_eL))
            score_gradient(scores_RL, grad_scores_RL, first_e[some], stop_e[some], lse_R, delta_R)
            torch.bmm(grad_scores_eQL, k_eLH[some], out=grad_q_eLH[some, queries])
            _add_product(grad_v_eLH[some], scores_eQL.transpose(1, 2), grad_eQH, queries)
            _add_product(grad_k_eLH[some], grad_scores_eQL.transpose(1, 2), q_eQH, queries)
        for which, grad_eLH in enumerate((grad_q_eLH, grad_k_eLH, grad_v_eLH)):
            places.put(grad_3NPH[which, :, :num_tokens], grad_eLH)
    return grad_3NPH


def _add_product(total: Tensor, left: Tensor, right: Tensor, queries: slice) -> None:
    """Add what one piece of the queries gives to keys or values; the first piece sets it."""
    if queries.start == 0:
        torch.bmm(left, right, out=total)
    else:
        total.add_(torch.bmm(left, right))
