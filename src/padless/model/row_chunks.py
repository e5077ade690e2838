"""One layer on a CPU: forward and backward by hand, a few hundred rows at a time, so that what a row passes through
stays in a core's cache and only what the backward pass needs is kept.

The mathematics is that of :class:`padless.model.block.Layer`, which every other device runs module by module. Kept a
layer: the residual stream before each half, rotated queries, keys and values, the attention's result, and what ``Wi``
puts out; norms and activations are computed again. Matrix products are :mod:`padless.model.linear_rows`, in the
autocast dtype; what lies between them is :mod:`padless.kernels.native_rows`, in fp32.

    attention_half    hidden + Wo attend(rotate(Wqkv norm(hidden)))
    mlp_half          hidden + Wo (gelu(Wi_1 norm(hidden)) * Wi_2 norm(hidden))

Legend: T packed tokens, C rows of a chunk, D model width, N heads, H head width, I GeGLU width, P padded rows, 3 =
query, key, value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.attention.api import SegmentLayout
from padless.attention.blocked import attend_rows, attend_rows_backward, new_output_gradient, new_rows, query_scale
from padless.attention.local_blocks import Rows, plan_rows
from padless.kernels.native_rows import (
    add,
    geglu,
    geglu_backward,
    lay_heads_first,
    normalise,
    normalise_backward,
    rotate,
    rotate_back,
)
from padless.kernels.tiles import fits_tiles
from padless.model.linear_rows import LinearRows
from padless.model.precision import compute_dtype
from padless.model.rope import RopeTable

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class AttentionPart:
    """What the attention half of a layer is besides its weights."""

    num_heads: int
    window_tokens: int | None
    norm_eps: float


def attention_half(
    hidden_TD: Tensor,
    norm_D: Tensor | None,
    wqkv: Tensor,
    wo: Tensor,
    part: AttentionPart,
    layout: SegmentLayout,
    table: RopeTable,
) -> Tensor:
    """Return hidden_TD with the attention's update added.

    Args:
        hidden_TD: residual stream.
        norm_D: weight of the norm before it; None for none.
        wqkv: [3 D, D].
        wo: [D, D].
        part: heads, window, epsilon of the norm.
        layout: the segments.
        table: the layer's rotation.
    """
    dtype = compute_dtype(hidden_TD)
    with torch.autocast(hidden_TD.device.type, enabled=False):
        return cast(Tensor, _AttentionHalf.apply(hidden_TD.contiguous(), norm_D, wqkv, wo, part, layout, table, dtype))


def mlp_half(hidden_TD: Tensor, norm_D: Tensor, wi: Tensor, wo: Tensor, norm_eps: float) -> Tensor:
    """Return hidden_TD with the feed-forward's update added.

    Args:
        hidden_TD: residual stream.
        norm_D: weight of the norm before it.
        wi: [2 I, D], input and gate.
        wo: [D, I].
        norm_eps: epsilon of the norm.
    """
    dtype = compute_dtype(hidden_TD)
    with torch.autocast(hidden_TD.device.type, enabled=False):
        return cast(
            Tensor, _MlpHalf.apply(hidden_TD.contiguous(), norm_D, wi, wo, norm_eps, dtype, torch.is_grad_enabled())
        )


def _chunks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, num_rows))


class _Norm:
    """The norm before a half, chunk by chunk; mean and deviation of each row are kept for the backward pass."""

    def __init__(self, x_TD: Tensor, weight_D: Tensor | None, eps: float, dtype: torch.dtype) -> None:
        self.x_TD, self.weight_D, self.eps, self.dtype = x_TD, weight_D, eps, dtype
        self.mean_T = self.rstd_T = x_TD.new_empty(0)
        self.grad_D = None if weight_D is None else torch.zeros(weight_D.shape, dtype=torch.float32)

    def prepare(self) -> "_Norm":
        """Make room for what the forward pass keeps."""
        if self.weight_D is not None:
            self.mean_T, self.rstd_T = (torch.empty(self.x_TD.shape[0], dtype=torch.float32) for _ in range(2))
        return self

    def forward(self, chunk: slice) -> Tensor:
        """Return the normed rows in the compute dtype."""
        x_CD = self.x_TD[chunk]
        if self.weight_D is None:
            return x_CD.to(self.dtype)
        out_CD = torch.empty(x_CD.shape, dtype=self.dtype)
        normalise(x_CD, self.weight_D, self.eps, self.mean_T[chunk], self.rstd_T[chunk], out_CD)
        return out_CD

    def backward(self, chunk: slice, grad_CD: Tensor, residual_CD: Tensor, out_CD: Tensor) -> Tensor:
        """Put the gradient of x, with the residual's own added, into ``out_CD``; add up the weight's.

        Returns:
            The normed rows, once more.
        """
        x_CD = self.x_TD[chunk]
        if self.weight_D is None or self.grad_D is None:
            add(residual_CD, grad_CD, out_CD)
            return x_CD.to(self.dtype)
        normed_CD = torch.empty(x_CD.shape, dtype=self.dtype)
        rows = x_CD, self.weight_D, self.mean_T[chunk], self.rstd_T[chunk]
        self.grad_D += normalise_backward(grad_CD, *rows, residual_CD, out_CD, normed_CD)
        return normed_CD


class _AttentionHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd contexts take any attribute
        hidden_TD: Tensor,
        norm_D: Tensor | None,
        wqkv: Tensor,
        wo: Tensor,
        part: AttentionPart,
        layout: SegmentLayout,
        table: RopeTable,
        dtype: torch.dtype,
    ) -> Tensor:
        num_tokens, width, heads = hidden_TD.shape[0], hidden_TD.shape[1], part.num_heads
        norm = _Norm(hidden_TD, norm_D, part.norm_eps, dtype).prepare()
        to_qkv, to_out, head_width = LinearRows(wqkv.to(dtype)), LinearRows(wo.to(dtype)), width // heads
        rows = plan_rows(layout, part.window_tokens, in_tiles=fits_tiles(dtype, head_width))
        qkv_3NPH = new_rows(rows, heads, head_width, hidden_TD.new_empty(0, dtype=dtype))
        scale = query_scale(head_width)
        room_CE = qkv_3NPH.new_empty((min(CHUNK_ROWS, num_tokens), 3 * width))
        for chunk in _chunks(num_tokens):
            qkv_CE = to_qkv.apply(norm.forward(chunk), room_CE[: chunk.stop - chunk.start])
            qkv_C3NH = qkv_CE.view(-1, 3, heads, head_width)
            rotate(qkv_C3NH, *table.chunk(chunk), scale, qkv_3NPH, rows.own.start + chunk.start)
        out_TNH = qkv_3NPH.new_empty((num_tokens, heads, head_width))
        kept = attend_rows(qkv_3NPH, layout, rows, out_TNH.transpose(0, 1))
        result_TD = torch.empty_like(hidden_TD)
        for chunk in _chunks(num_tokens):
            to_out.apply_and_add(out_TNH[chunk].flatten(1), hidden_TD[chunk], result_TD[chunk])
        low_weights = to_qkv.weight_ED, to_out.weight_ED
        ctx.save_for_backward(hidden_TD, norm.mean_T, norm.rstd_T, norm_D, *low_weights, qkv_3NPH, out_TNH, kept)
        ctx.part, ctx.layout, ctx.table, ctx.rows = part, layout, table, rows
        ctx.dtypes = wqkv.dtype, wo.dtype
        return result_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, mean_T, rstd_T, norm_D, low_wqkv, low_wo, qkv_3NPH, out_TNH, kept = ctx.saved_tensors
        rows: Rows = ctx.rows
        table: RopeTable = ctx.table
        num_tokens, heads, head_width = out_TNH.shape
        dtype, scale = qkv_3NPH.dtype, query_scale(head_width)
        grad_out_NOH, delta_NO = new_output_gradient(rows, heads, head_width, out_TNH)
        grad_TD, to_qkv, to_out = grads[0].contiguous(), LinearRows(low_wqkv), LinearRows(low_wo)
        for chunk in _chunks(num_tokens):
            low_CD = grad_TD[chunk].to(dtype)
            grad_CNH = to_out.backward(low_CD).view(-1, heads, head_width)
            lay_heads_first(grad_CNH, out_TNH[chunk], grad_out_NOH, delta_NO, chunk.start)
            to_out.add_gradient(low_CD, out_TNH[chunk].flatten(1))
        grad_3NPH = attend_rows_backward(grad_out_NOH, delta_NO, qkv_3NPH, kept, ctx.layout, rows)
        norm = _Norm(hidden_TD, norm_D, ctx.part.norm_eps, dtype)
        norm.mean_T, norm.rstd_T = mean_T, rstd_T
        grad_hidden_TD = torch.empty_like(hidden_TD)
        room_C3NH = qkv_3NPH.new_empty((min(CHUNK_ROWS, num_tokens), 3, heads, head_width))
        for chunk in _chunks(num_tokens):
            grad_C3NH = room_C3NH[: chunk.stop - chunk.start]
            rotate_back(grad_3NPH, rows.own.start + chunk.start, *table.chunk(chunk), scale, grad_C3NH)
            grad_CE = grad_C3NH.flatten(1)
            normed_CD = norm.backward(chunk, to_qkv.backward(grad_CE), grad_TD[chunk], grad_hidden_TD[chunk])
            to_qkv.add_gradient(grad_CE, normed_CD)
        weights = (each.grad_ED.to(dtype) for each, dtype in zip((to_qkv, to_out), ctx.dtypes, strict=True))
        return grad_hidden_TD, norm.grad_D, *weights, None, None, None, None


class _MlpHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd contexts take any attribute
        hidden_TD: Tensor,
        norm_D: Tensor,
        wi: Tensor,
        wo: Tensor,
        norm_eps: float,
        dtype: torch.dtype,
        keep: bool,
    ) -> Tensor:
        num_tokens, inner = hidden_TD.shape[0], wo.shape[1]
        norm = _Norm(hidden_TD, norm_D, norm_eps, dtype).prepare()
        to_both, to_out = LinearRows(wi.to(dtype)), LinearRows(wo.to(dtype))
        room_rows = min(CHUNK_ROWS, num_tokens)
        both_T2I = torch.empty((num_tokens if keep else room_rows, 2 * inner), dtype=dtype)
        room_CI = both_T2I.new_empty((room_rows, inner))
        result_TD = torch.empty_like(hidden_TD)
        for chunk in _chunks(num_tokens):
            normed_CD, active_CI = norm.forward(chunk), room_CI[: chunk.stop - chunk.start]
            place = chunk if keep else slice(0, normed_CD.shape[0])
            geglu(to_both.apply(normed_CD, both_T2I[place]), active_CI)
            to_out.apply_and_add(active_CI, hidden_TD[chunk], result_TD[chunk])
        if keep:
            low_weights = to_both.weight_ED, to_out.weight_ED
            ctx.save_for_backward(hidden_TD, norm.mean_T, norm.rstd_T, norm_D, *low_weights, both_T2I)
            ctx.eps, ctx.dtypes = norm_eps, (wi.dtype, wo.dtype)
        return result_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, mean_T, rstd_T, norm_D, low_wi, low_wo, both_T2I = ctx.saved_tensors
        grad_TD, inner, dtype = grads[0].contiguous(), low_wo.shape[1], low_wi.dtype
        norm = _Norm(hidden_TD, norm_D, ctx.eps, dtype)
        norm.mean_T, norm.rstd_T = mean_T, rstd_T
        to_both, to_out, grad_hidden_TD = LinearRows(low_wi), LinearRows(low_wo), torch.empty_like(hidden_TD)
        room_C2I, room_CI = (low_wi.new_empty((min(CHUNK_ROWS, hidden_TD.shape[0]), n * inner)) for n in (2, 1))
        for chunk in _chunks(hidden_TD.shape[0]):
            low_CD = grad_TD[chunk].to(dtype)
            grad_C2I, active_CI = (room[: low_CD.shape[0]] for room in (room_C2I, room_CI))
            geglu_backward(to_out.backward(low_CD), both_T2I[chunk], grad_C2I, active_CI)
            to_out.add_gradient(low_CD, active_CI)
            normed_CD = norm.backward(chunk, to_both.backward(grad_C2I), grad_TD[chunk], grad_hidden_TD[chunk])
            to_both.add_gradient(grad_C2I, normed_CD)
        weights = (each.grad_ED.to(dtype) for each, dtype in zip((to_both, to_out), ctx.dtypes, strict=True))
        return grad_hidden_TD, norm.grad_D, *weights, None, None, None
