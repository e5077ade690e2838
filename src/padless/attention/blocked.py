"""Attention on a CPU, in pieces that stay in a core's cache: matrix products and softmax, forward and backward by hand.

torch's CPU flash kernel spends about five nanoseconds a score in its backward pass; batched matrix products with what
:mod:`padless.kernels.native_scores` does between them spend less than two (``padless bench attention``). Two ways:

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
from padless.kernels.native import can_compute
from padless.kernels.native_rows import lay_heads_first


def new_rows(rows: Rows, num_heads: int, width: int, like: Tensor) -> Tensor:
    """Return qkv_3NPH to be filled at ``rows.own``; what lies around it is zero."""
    qkv_3NPH = like.new_empty((3, num_heads, rows.num_rows, width))
    qkv_3NPH[:, :, : rows.own.start] = 0
    qkv_3NPH[:, :, rows.own.stop :] = 0
    return qkv_3NPH


def attend_rows(qkv_3NPH: Tensor, layout: SegmentLayout, rows: Rows, out_NTH: Tensor) -> Tensor:
    """Fill ``out_NTH`` and return what :func:`attend_rows_backward` needs beside it: one fp32 number a query.

    Args:
        qkv_3NPH: rotated queries times :func:`query_scale`, rotated keys, and values, laid out by ``rows``.
        layout: the segments.
        rows: from :func:`plan_rows`.
        out_NTH: gets the result.
    """
    if rows.is_local:
        return attend_local(qkv_3NPH, layout, rows, out_NTH)
    return attend_whole(qkv_3NPH, layout, out_NTH)


def attend_rows_backward(
    grad_out_NTH: Tensor, delta_NT: Tensor, qkv_3NPH: Tensor, kept: Tensor, layout: SegmentLayout, rows: Rows
) -> Tensor:
    """Return the gradient of ``qkv_3NPH``, in the same layout; rows that are not ``rows.own`` mean nothing.

    Args:
        grad_out_NTH: gradient of the output, heads first.
        delta_NT: output times its gradient, summed over H, fp32.
        qkv_3NPH: as given to :func:`attend_rows`.
        kept: what it returned.
        layout: the segments.
        rows: from :func:`plan_rows`.
    """
    if rows.is_local:
        return attend_local_backward(grad_out_NTH, delta_NT, qkv_3NPH, kept, layout, rows)
    return attend_whole_backward(grad_out_NTH, delta_NT, qkv_3NPH, kept, layout)


def query_scale(head_width: int) -> float:
    """Return what queries are multiplied by, so that their products with keys are scores."""
    return head_width**-0.5


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
        rows = plan_rows(layout, window_tokens)
        num_tokens, _, num_heads, width = qkv_T3NH.shape
        qkv_3NPH = new_rows(rows, num_heads, width, qkv_T3NH)
        qkv_3NPH[:, :, rows.own] = qkv_T3NH.permute(1, 2, 0, 3)
        qkv_3NPH[0] *= query_scale(width)
        out_TNH = qkv_T3NH.new_empty((num_tokens, num_heads, width))
        kept = attend_rows(qkv_3NPH, layout, rows, out_TNH.transpose(0, 1))
        ctx.save_for_backward(qkv_3NPH, kept, out_TNH)
        ctx.layout, ctx.rows = layout, rows
        return out_TNH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv_3NPH, kept, out_TNH = ctx.saved_tensors
        num_tokens, num_heads, width = out_TNH.shape
        grad_NTH = out_TNH.new_empty((num_heads, num_tokens, width))
        delta_NT = torch.empty((num_heads, num_tokens), dtype=torch.float32)
        lay_heads_first(grads[0].contiguous(), out_TNH, grad_NTH, delta_NT, 0)
        grad_3NPH = attend_rows_backward(grad_NTH, delta_NT, qkv_3NPH, kept, ctx.layout, ctx.rows)
        grad_3NPH[0] *= query_scale(width)
        return grad_3NPH[:, :, ctx.rows.own].permute(2, 0, 1, 3).contiguous(), None, None


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised.

    Raises:
        ConfigError: a tensor that is not on a CPU, or not fp32 or bf16.
    """
    layout.check(qkv_T3NH)
    if qkv_T3NH.device.type != "cpu":
        raise ConfigError(
            f"attention backend blocked was given a tensor on {qkv_T3NH.device}",
            "set hardware.attention_backend=auto, which takes it on a CPU only",
        )
    if not can_compute(qkv_T3NH.dtype):
        raise ConfigError(
            f"attention backend blocked was given {qkv_T3NH.dtype}",
            "set hardware.precision=bf16 or fp32, or hardware.attention_backend=sdpa",
        )
    return cast(Tensor, _Attend.apply(qkv_T3NH, layout, window_tokens))
