"""Segments of similar length as one padded batch: the plan of :mod:`padless.attention.sdpa` for short segments.

    lengths  5 4 4 2 | 60 58          two groups, each one batched kernel call
    G x L    4 x 5     2 x 60         row g of a group is a segment, its tail repeats the segment's last token

A token has one place in the padded rows, so going there and back are gathers and their gradients are too. Which lengths
share a group is the cheapest way to cut the sorted lengths: padded scores cost, and so does every further kernel call.

Legend: T packed tokens, P padded places of all groups together, G segments of a group, L places a segment, S segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout

# What one more group costs, in scores (entries of a head's query x key matrix) computed instead. Measured on one CPU
# core with 2 heads of 64, forward and backward: about 0.05 ms a group and 20 ns a score. The figure for GPUs is a guess
# that has not been measured: scores are nearly free there, and a group is some ten kernel launches.
GROUP_COST_SCORES_CPU = 2_500
GROUP_COST_SCORES_GPU = 1_048_576


@dataclass(frozen=True)
class Group:
    """One batched kernel call: ``segments_G`` padded to ``places`` each."""

    segments_G: np.ndarray
    places: int


@dataclass(frozen=True)
class GroupPlan:
    """Where each token goes. Indices are int64 on the batch's device."""

    groups: tuple[Group, ...]
    source_P: Tensor  # token that each padded place holds
    place_T: Tensor  # padded place of each token
    num_scores: int  # entries of one head's score matrices, padding included

    @property
    def sizes(self) -> list[int]:
        """Padded places of each group."""
        return [len(group.segments_G) * group.places for group in self.groups]


def group_cost_scores(device_type: str) -> int:
    """Return the price of a further group on this kind of device."""
    return GROUP_COST_SCORES_CPU if device_type == "cpu" else GROUP_COST_SCORES_GPU


def cut_lengths(lengths: Sequence[int], group_cost: int) -> list[int]:
    """Return the longest length of each group, ascending, such that padded scores and group costs are least together.

    Args:
        lengths: of the segments, any order.
        group_cost: price of a group, in scores.
    """
    edges, counts = np.unique(_rounded_up(np.asarray(lengths)), return_counts=True)
    edges[-1] = max(lengths)
    total_before = np.concatenate([[0], np.cumsum(counts)])
    least, start_of = [0.0], [0]
    for end in range(1, len(edges) + 1):
        costs = [least[s] + (total_before[end] - total_before[s]) * float(edges[end - 1]) ** 2 for s in range(end)]
        best = int(np.argmin(costs))
        least.append(costs[best] + group_cost)
        start_of.append(best)
    ends, end = [], len(edges)
    while end:
        ends.append(int(edges[end - 1]))
        end = start_of[end]
    return ends[::-1]


def _rounded_up(lengths: np.ndarray) -> np.ndarray:
    """Return lengths on a grid of few values (multiples of 8, eight an octave), so that the search stays short."""
    octave = np.floor(np.log2(np.maximum(lengths, 64)))
    step = np.exp2(octave - 3).astype(np.int64)
    return -(-lengths // step) * step


def plan_groups(layout: SegmentLayout, multiple: int = 1) -> GroupPlan:
    """Return the grouping of a batch, made once for all layers.

    Args:
        layout: the segments.
        multiple: of which the places of a group of several segments are.
    """
    return layout.cached(("group_plan", multiple), lambda: _plan_groups(layout, multiple))


def _plan_groups(layout: SegmentLayout, multiple: int) -> GroupPlan:
    ends = cut_lengths(layout.segment_lengths, group_cost_scores(layout.device.type))
    group_of_S = np.searchsorted(ends, layout.lengths_S)
    place_T = np.empty(layout.num_tokens, dtype=np.int64)
    groups, sources, offset, num_scores = [], [], 0, 0
    for number in range(len(ends)):
        segments_G = np.flatnonzero(group_of_S == number)
        lengths_G = layout.lengths_S[segments_G]
        places = int(lengths_G.max())
        if len(segments_G) > 1:
            places = -(-places // multiple) * multiple
        within_L = np.arange(places)
        source_GL = layout.starts_S[segments_G, None] + np.minimum(within_L, lengths_G[:, None] - 1)
        is_real_GL = within_L < lengths_G[:, None]
        place_T[source_GL[is_real_GL]] = offset + np.flatnonzero(is_real_GL)
        groups.append(Group(segments_G, places))
        sources.append(source_GL.ravel())
        offset += source_GL.size
        num_scores += source_GL.size * places
    source_P = layout.to_device(np.concatenate(sources))
    return GroupPlan(tuple(groups), source_P, layout.to_device(place_T), num_scores)


class ToGroups(torch.autograd.Function):
    """Packed rows to query, key and value of each group. Padding holds a real row's copy and must get no gradient."""

    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, plan: GroupPlan) -> tuple[Tensor, ...]:
        """Return q_GNLH, k_GNLH, v_GNLH of the first group, then of the next ones: views of one buffer."""
        ctx.plan = plan
        return _group_views(qkv_T3NH.index_select(0, plan.source_P), plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of qkv_T3NH."""
        plan: GroupPlan = ctx.plan
        _, num_heads, _, width = grads[0].shape
        grad_P3NH = grads[0].new_empty((plan.source_P.shape[0], 3, num_heads, width))
        for slot, grad in zip(_group_views(grad_P3NH, plan), grads, strict=True):
            slot.copy_(grad)
        return grad_P3NH.index_select(0, plan.place_T), None


class FromGroups(torch.autograd.Function):
    """What each group gave, back to packed rows; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, plan: GroupPlan, *outs: Tensor) -> Tensor:
        """Return out_TNH from out_GNLH of each group."""
        ctx.plan = plan
        _, num_heads, _, width = outs[0].shape
        rows_PNH = torch.cat([out_GNLH.transpose(1, 2).reshape(-1, num_heads, width) for out_GNLH in outs])
        return rows_PNH.index_select(0, plan.place_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each out_GNLH."""
        plan: GroupPlan = ctx.plan
        grad_TNH = grads[0]
        grad_PNH = grad_TNH.new_zeros((plan.source_P.shape[0], *grad_TNH.shape[1:]))
        grad_PNH.index_copy_(0, plan.place_T, grad_TNH)
        pieces = grad_PNH.split(plan.sizes)
        views = [
            piece.view(-1, group.places, *grad_TNH.shape[1:]).transpose(1, 2)
            for group, piece in zip(plan.groups, pieces, strict=True)
        ]
        return None, *views


def _group_views(rows_P3NH: Tensor, plan: GroupPlan) -> tuple[Tensor, ...]:
    views: list[Tensor] = []
    for group, piece in zip(plan.groups, rows_P3NH.split(plan.sizes), strict=True):
        views += piece.view(-1, group.places, *rows_P3NH.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
    return tuple(views)
