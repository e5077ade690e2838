"""Attention with torch's scaled_dot_product_attention, on any device, without padding whole batches.

Two ways, the one that computes fewer scores chosen per batch and window:

- *groups*: segments of similar length as one padded batch (:mod:`padless.attention.groups`). Global layers always go
  this way; so do local ones where segments are short, since a window then hides little or nothing.
- *band*: the packed row as overlapping blocks (:mod:`padless.attention.band`), linear in T.

Legend: T packed tokens, N heads, H head width, R blocks, B tokens a block, K keys a block, G segments of a group, L
places a segment.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from padless.attention.api import SegmentLayout, window_reach
from padless.attention.band import ToBand, band_scores, is_seen_RBK
from padless.attention.groups import FromGroups, Group, ToGroups, plan_groups
from padless.attention.repeatable import with_repeatable_backward


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised."""
    layout.check(qkv_T3NH)
    reach = window_reach(window_tokens)
    if reach is not None and reach >= layout.max_seqlen - 1:
        reach = None
    if reach is not None and band_scores(layout.num_tokens, reach) < plan_groups(layout).num_scores:
        return attend_band(qkv_T3NH, layout, reach)
    return attend_groups(qkv_T3NH, layout, reach)


def attend_groups(qkv_T3NH: Tensor, layout: SegmentLayout, reach: int | None) -> Tensor:
    """Return out_TNH, group by group; ``reach`` tokens to each side, or None for whole segments."""
    plan = plan_groups(layout)
    views = iter(cast(tuple[Tensor, ...], ToGroups.apply(qkv_T3NH, plan)))
    outs = []
    for number, group in enumerate(plan.groups):
        q_GNLH, k_GNLH, v_GNLH = next(views), next(views), next(views)
        mask = _group_mask(layout, number, group, reach, qkv_T3NH.dtype)
        out_GNLH = F.scaled_dot_product_attention(q_GNLH, k_GNLH, v_GNLH, attn_mask=mask)
        outs.append(with_repeatable_backward(out_GNLH))
    return cast(Tensor, FromGroups.apply(plan, *outs))


def attend_band(qkv_T3NH: Tensor, layout: SegmentLayout, reach: int) -> Tensor:
    """Return out_TNH, each token seeing ``reach`` tokens to each side within its segment."""
    q_RNBH, k_RNKH, v_RNKH = cast(tuple[Tensor, Tensor, Tensor], ToBand.apply(qkv_T3NH, reach))
    key = ("band_mask", reach, qkv_T3NH.dtype)
    mask = layout.cached(key, lambda: _as_bias(layout, is_seen_RBK(layout, reach)[:, None], qkv_T3NH.dtype))
    out_RNBH = F.scaled_dot_product_attention(q_RNBH, k_RNKH, v_RNKH, attn_mask=mask)
    return with_repeatable_backward(out_RNBH).transpose(1, 2).flatten(0, 1)[: layout.num_tokens]


def _as_bias(layout: SegmentLayout, is_seen: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return 0 where ``is_seen`` and minus infinity elsewhere."""
    bias = torch.zeros(is_seen.shape, dtype=dtype, device=layout.device)
    return bias.masked_fill_(~layout.to_device(is_seen), float("-inf"))


def _group_mask(
    layout: SegmentLayout, number: int, group: Group, reach: int | None, dtype: torch.dtype
) -> Tensor | None:
    if reach is not None and reach >= group.places - 1:
        reach = None
    key = ("group_mask", number, reach, dtype)
    return layout.cached(key, lambda: _build_group_mask(layout, group, reach, dtype))


def _build_group_mask(layout: SegmentLayout, group: Group, reach: int | None, dtype: torch.dtype) -> Tensor | None:
    """Return bias_G1LL (G11L without a window), or None where everything is seen. Padding sees all real keys."""
    lengths_G = layout.lengths_S[group.segments_G]
    place_L = np.arange(group.places)
    is_real_GL = place_L < lengths_G[:, None]
    if reach is None:
        return None if is_real_GL.all() else _as_bias(layout, is_real_GL[:, None, None, :], dtype)
    is_near_LL = np.abs(place_L[:, None] - place_L[None, :]) <= reach
    is_seen_GLL = is_real_GL[:, None, :] & (is_near_LL | ~is_real_GL[:, :, None])
    return _as_bias(layout, is_seen_GLL[:, None], dtype)
