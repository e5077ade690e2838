"""Attention on a CPU, in pieces that stay in a core's cache: matrix products and softmax, forward and backward by hand.

torch's CPU flash kernel spends about five nanoseconds a score in its backward pass; batched matrix products with what
:mod:`padless.kernels.native_scores` does between them spend less than two (``padless bench attention``). Three ways:

- *in tiles* (:mod:`padless.kernels.tiled_attention`): segment by segment in one kernel, where the CPU has AMX.
- *local* (:mod:`padless.attention.local_blocks`): the row as overlapping blocks; cost is linear in T.
- *whole* (:mod:`padless.attention.whole_segments`): segments of similar length together, a few heads at a time.

All work on heads-first rows, so that every product reads and writes plain matrices:

    local    | reach zeros | T tokens | zeros up to whole blocks | reach zeros |       P = R B + 2 reach
    whole, in tiles        | T tokens | zeros up to a whole tile |

Legend: T packed tokens, P padded rows, O rows of the output's gradient, N heads, H head width, R blocks of B tokens.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout
from padless.attention.local_blocks import Rows, attend_local, attend_local_backward, plan_rows
from padless.attention.whole_segments import attend_whole, attend_whole_backward
from padless.errors import ConfigError
from padless.kernels.native import can_compute
from padless.kernels.native_rows import lay_heads_first
from padless.kernels.tiled_attention import attend_in_tiles
from padless.kernels.tiled_attention_backward import attend_in_tiles_backward
from padless.kernels.tiles import fits_tiles


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
    if rows.in_tiles:
        return attend_in_tiles(qkv_3NPH, *_segments(layout), rows.reach, out_NTH)
    if rows.is_local:
        return attend_local(qkv_3NPH, layout, rows, out_NTH)
    return attend_whole(qkv_3NPH, layout, out_NTH)


def _segments(layout: SegmentLayout) -> tuple[Tensor, Tensor, int]:
    def build() -> tuple[Tensor, Tensor, int]:
        starts_S, lengths_S = (layout.to_device(each.astype(np.int32)) for each in (layout.starts_S, layout.lengths_S))
        return starts_S, lengths_S, layout.max_seqlen

    return layout.cached("tiled_segments", build)


def new_output_gradient(rows: Rows, num_heads: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad_out_NOH and delta_NO to be filled at the first T rows."""
    grad_out_NOH = like.new_empty((num_heads, rows.num_output_rows, width))
    return grad_out_NOH, torch.empty(grad_out_NOH.shape[:2], dtype=torch.float32)


def attend_rows_backward(
    grad_out_NOH: Tensor, delta_NO: Tensor, qkv_3NPH: Tensor, kept: Tensor, layout: SegmentLayout, rows: Rows
) -> Tensor:
    """Return the gradient of ``qkv_3NPH``, in the same layout; rows that are not ``rows.own`` mean nothing.

    Args:
        grad_out_NOH: gradient of the output, from :func:`new_output_gradient`.
        delta_NO: output times its gradient, summed over H, fp32; likewise.
        qkv_3NPH: as given to :func:`attend_rows`.
        kept: what it returned.
        layout: the segments.
        rows: from :func:`plan_rows`.
    """
    if rows.in_tiles:
        return attend_in_tiles_backward(grad_out_NOH, delta_NO, qkv_3NPH, kept, *_segments(layout), rows.reach)
    if rows.is_local:
        return attend_local_backward(grad_out_NOH, delta_NO, qkv_3NPH, kept, layout, rows)
    return attend_whole_backward(grad_out_NOH, delta_NO, qkv_3NPH, kept, layout)


def query_scale(head_width: int) -> float:
    """Return what queries are multiplied by, so that their products with keys are scores."""
    return head_width**-0.5


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
        num_tokens, _, num_heads, width = qkv_T3NH.shape
        rows = plan_rows(layout, window_tokens, in_tiles=fits_tiles(qkv_T3NH.dtype, width))
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
        _, num_heads, width = out_TNH.shape
        grad_NOH, delta_NO = new_output_gradient(ctx.rows, num_heads, width, out_TNH)
        lay_heads_first(grads[0].contiguous(), out_TNH, grad_NOH, delta_NO, 0)
        grad_3NPH = attend_rows_backward(grad_NOH, delta_NO, qkv_3NPH, kept, ctx.layout, ctx.rows)
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
