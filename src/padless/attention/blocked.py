"""Attention on a CPU, in pieces that stay in a core's cache: matrix products and softmax, forward and backward by hand.

torch's CPU flash kernel spends about five nanoseconds a score in its backward pass; batched matrix products with
torch's fused softmax and its fused gradient spend about two (``padless bench attention``). Two ways:

- *local* (:mod:`padless.attention.local_blocks`): the row as overlapping blocks; cost is linear in T.
- *whole* (:mod:`padless.attention.whole_segments`): segments of similar length together, a few heads at a time.

Both work on heads-first rows, so that every product reads and writes plain matrices:

    local    | reach zeros | T tokens | zeros up to whole blocks | reach zeros |       P = R B + 2 reach
    whole                  | T tokens | zeros up to a whole tile |

Legend: T packed tokens, P padded rows, N heads, H head width, R blocks of B tokens.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout
from padless.attention.local_blocks import Rows, attend_local, attend_local_backward, plan_rows
from padless.attention.whole_segments import attend_whole, attend_whole_backward
from padless.errors import ConfigError


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
        return attend_local(qkv_3NPH, layout, rows, out_NTH, keep)
    attend_whole(qkv_3NPH, layout, out_NTH)
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
        return attend_local_backward(grad_out_NTH, qkv_3NPH, kept, rows)
    return attend_whole_backward(grad_out_NTH, qkv_3NPH, layout)


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
