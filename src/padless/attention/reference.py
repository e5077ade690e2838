"""The definition of correct attention: one masked softmax a segment, in fp32, in plain PyTorch.

Slow, and meant to be read. Every other backend is tested against it, forward and backward.

Legend: T packed tokens, L tokens of one segment, N heads, H head width.
"""

import torch
from torch import Tensor

from padless.attention.api import SegmentLayout, window_reach


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised."""
    layout.check(qkv_T3NH)
    segments = qkv_T3NH.split(list(layout.segment_lengths))
    return torch.cat([_attend_segment(qkv_L3NH, window_reach(window_tokens)) for qkv_L3NH in segments])


def _attend_segment(qkv_L3NH: Tensor, reach: int | None) -> Tensor:
    q_NLH, k_NLH, v_NLH = qkv_L3NH.float().permute(1, 2, 0, 3)
    scores_NLL = q_NLH @ k_NLH.transpose(1, 2) * qkv_L3NH.shape[-1] ** -0.5
    if reach is not None:
        place_L = torch.arange(qkv_L3NH.shape[0], device=qkv_L3NH.device)
        is_far_LL = (place_L[:, None] - place_L[None, :]).abs() > reach
        scores_NLL = scores_NLL.masked_fill(is_far_LL, float("-inf"))
    return (scores_NLL.softmax(-1) @ v_NLH).transpose(0, 1).to(qkv_L3NH.dtype)
