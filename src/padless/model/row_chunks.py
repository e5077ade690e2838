"""One layer on a CPU: forward and backward by hand, a few hundred rows at a time, so that what a row passes through
stays in a core's cache and only what the backward pass needs is kept.

The mathematics is that of :class:`padless.model.block.Layer`, which every other device runs module by module. Kept a
layer: the residual stream before each half, rotated queries, keys and values, the attention's result, and what ``Wi``
puts out; norms and activations are computed again. Sums and norms are fp32, matrix products run in the autocast dtype.

    attention_half    hidden + Wo attend(rotate(Wqkv norm(hidden)))
    mlp_half          hidden + Wo (gelu(Wi_1 norm(hidden)) * Wi_2 norm(hidden))

Rotation here pairs neighbours instead of halves: the rows of Wqkv are put into that order as they are cast, which
leaves every product of a query and a key as it is.

Legend: T packed tokens, C rows of a chunk, D model width, N heads, H head width, I GeGLU width, P padded rows, 3 =
query, key, value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from padless.attention.api import SegmentLayout
from padless.attention.blocked import attend_rows, attend_rows_backward, new_rows
from padless.attention.local_blocks import Rows, plan_rows
from padless.model.precision import compute_dtype
from padless.model.rope import RopeTable

CHUNK_ROWS = 512
_aten: Any = torch.ops.aten


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
    keep = torch.is_grad_enabled()
    dtype = compute_dtype(hidden_TD)
    with torch.autocast(hidden_TD.device.type, enabled=False):
        return cast(Tensor, _AttentionHalf.apply(hidden_TD, norm_D, wqkv, wo, part, layout, table, dtype, keep))


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
        return cast(Tensor, _MlpHalf.apply(hidden_TD, norm_D, wi, wo, norm_eps, dtype, torch.is_grad_enabled()))


def _chunks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, num_rows))


class _Norm:
    """The norm before a half, chunk by chunk; mean and deviation of each row are kept for the backward pass."""

    def __init__(self, x_TD: Tensor, weight_D: Tensor | None, eps: float, dtype: torch.dtype) -> None:
        self.x_TD, self.weight_D, self.eps, self.dtype = x_TD, weight_D, eps, dtype
        self.mean_T1 = self.rstd_T1 = x_TD.new_empty(0)
        self.grad_D = None if weight_D is None else torch.zeros_like(weight_D)

    def prepare(self) -> "_Norm":
        """Make room for what the forward pass keeps."""
        if self.weight_D is not None:
            self.mean_T1, self.rstd_T1 = (self.x_TD.new_empty((self.x_TD.shape[0], 1)) for _ in range(2))
        return self

    def forward(self, chunk: slice) -> Tensor:
        """Return the normed rows in the compute dtype."""
        x_CD = self.x_TD[chunk]
        if self.weight_D is None:
            return x_CD.to(self.dtype)
        out_CD, mean_C1, rstd_C1 = torch.native_layer_norm(x_CD, (x_CD.shape[1],), self.weight_D, None, self.eps)
        self.mean_T1[chunk], self.rstd_T1[chunk] = mean_C1, rstd_C1
        return out_CD.to(self.dtype)

    def again(self, chunk: slice) -> Tensor:
        """Return the same rows in the backward pass."""
        x_CD = self.x_TD[chunk]
        if self.weight_D is None:
            return x_CD.to(self.dtype)
        return ((x_CD - self.mean_T1[chunk]).mul_(self.rstd_T1[chunk])).mul_(self.weight_D).to(self.dtype)

    def backward(self, chunk: slice, grad_CD: Tensor, residual_CD: Tensor, out_CD: Tensor) -> None:
        """Put the gradient of x, with the residual's own added, into ``out_CD``; add up the weight's."""
        if self.weight_D is None:
            _add_low(residual_CD, grad_CD, out_CD)
            return
        grad_x_CD, grad_D, _ = _aten.native_layer_norm_backward(
            grad_CD.to(self.x_TD.dtype),
            self.x_TD[chunk],
            (self.x_TD.shape[1],),
            self.mean_T1[chunk],
            self.rstd_T1[chunk],
            self.weight_D,
            None,
            [True, True, False],
        )
        cast(Tensor, self.grad_D).add_(grad_D)
        torch.add(residual_CD, grad_x_CD, out=out_CD)


def _pair_neighbours(wqkv: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """Return Wqkv in the compute dtype with the two features of each rotated pair next to each other."""
    width = wqkv.shape[0] // (3 * num_heads)
    out = torch.empty(wqkv.shape, dtype=dtype, device=wqkv.device)
    rotated = 2 * num_heads * width
    out[:rotated].view(2 * num_heads, width // 2, 2, -1).copy_(
        wqkv[:rotated].view(2 * num_heads, 2, width // 2, -1).transpose(1, 2)
    )
    out[rotated:] = wqkv[rotated:]
    return out


def _part_neighbours(grad_wqkv: Tensor, num_heads: int) -> Tensor:
    """Return a gradient of what :func:`_pair_neighbours` gave in the order of the weight itself."""
    width = grad_wqkv.shape[0] // (3 * num_heads)
    out, rotated = torch.empty_like(grad_wqkv), 2 * num_heads * width
    out[:rotated].view(2 * num_heads, 2, width // 2, -1).copy_(
        grad_wqkv[:rotated].view(2 * num_heads, width // 2, 2, -1).transpose(1, 2)
    )
    out[rotated:] = grad_wqkv[rotated:]
    return out


def _turned_pairs(x_CEH: Tensor, turn_C1P: Tensor) -> Tensor:
    """Return neighbours turned as complex numbers, in fp32."""
    x_CEP = torch.view_as_complex(x_CEH.to(torch.float32, copy=True).unflatten(-1, (-1, 2)))
    return torch.view_as_real(x_CEP.mul_(turn_C1P)).flatten(-2)


def _add_low(x_CD: Tensor, low_CD: Tensor, out_CD: Tensor) -> None:
    """Put an fp32 sum into ``out_CD``; copying first is faster than an addition that has to convert."""
    torch.add(x_CD, low_CD.to(x_CD.dtype), out=out_CD)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to an fp32 sum."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_((left @ right).to(total.dtype))


def _zeros_fp32(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)


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
        keep: bool,
    ) -> Tensor:
        num_tokens, width, heads = hidden_TD.shape[0], hidden_TD.shape[1], part.num_heads
        rows = plan_rows(layout, part.window_tokens)
        norm = _Norm(hidden_TD, norm_D, part.norm_eps, dtype).prepare()
        low_wqkv, low_wo = _pair_neighbours(wqkv, heads, dtype), wo.to(dtype)
        qkv_3NPH = new_rows(rows, heads, width // heads, hidden_TD.new_empty(0, dtype=dtype))
        qkv_3NTH = qkv_3NPH[:, :, rows.own]
        for chunk in _chunks(num_tokens):
            qkv_C3NH = (norm.forward(chunk) @ low_wqkv.t()).view(-1, 3, heads, width // heads)
            own_C3NH = qkv_3NTH[:, :, chunk].permute(2, 0, 1, 3)
            turned = _turned_pairs(qkv_C3NH[:, :2].flatten(1, 2), table.turn_T1C[chunk])
            own_C3NH[:, :2] = turned.view(-1, 2, heads, width // heads)
            own_C3NH[:, 2] = qkv_C3NH[:, 2]
        out_TNH = qkv_3NPH.new_empty((num_tokens, heads, width // heads))
        kept = attend_rows(qkv_3NPH, layout, rows, out_TNH.transpose(0, 1), keep)
        result_TD = torch.empty_like(hidden_TD)
        for chunk in _chunks(num_tokens):
            _add_low(hidden_TD[chunk], out_TNH[chunk].flatten(1) @ low_wo.t(), result_TD[chunk])
        if keep:
            saved = [hidden_TD, norm.mean_T1, norm.rstd_T1, norm_D, low_wqkv, low_wo, qkv_3NPH, out_TNH, kept]
            ctx.save_for_backward(*saved)
            ctx.part, ctx.layout, ctx.table, ctx.rows = part, layout, table, rows
            ctx.dtypes = wqkv.dtype, wo.dtype
        return result_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, mean_T1, rstd_T1, norm_D, low_wqkv, low_wo, qkv_3NPH, out_TNH, kept = ctx.saved_tensors
        part: AttentionPart = ctx.part
        rows: Rows = ctx.rows
        num_tokens, heads, head_width = out_TNH.shape
        dtype = qkv_3NPH.dtype
        grad_TD, grad_wo = grads[0], _zeros_fp32(low_wo)
        grad_out_NTH = qkv_3NPH.new_empty((heads, num_tokens, head_width))
        for chunk in _chunks(num_tokens):
            low_CD = grad_TD[chunk].to(dtype)
            grad_out_NTH[:, chunk] = (low_CD @ low_wo).view(-1, heads, head_width).transpose(0, 1)
            _add_product(grad_wo, low_CD.t(), out_TNH[chunk].flatten(1))
        grad_3NTH = attend_rows_backward(grad_out_NTH, qkv_3NPH, kept, ctx.layout, rows)
        norm = _Norm(hidden_TD, norm_D, part.norm_eps, dtype)
        norm.mean_T1, norm.rstd_T1 = mean_T1, rstd_T1
        grad_hidden_TD, grad_wqkv = torch.empty_like(hidden_TD), _zeros_fp32(low_wqkv)
        back_T1P = ctx.table.turn_T1C.conj()
        grad_C3NH = qkv_3NPH.new_empty((min(CHUNK_ROWS, num_tokens), 3, heads, head_width))
        for chunk in _chunks(num_tokens):
            own_C3NH = grad_3NTH[:, :, chunk].permute(2, 0, 1, 3)
            some_C3NH = grad_C3NH[: own_C3NH.shape[0]]
            some_C3NH[:, :2] = _turned_pairs(own_C3NH[:, :2].flatten(1, 2), back_T1P[chunk]).view_as(own_C3NH[:, :2])
            some_C3NH[:, 2] = own_C3NH[:, 2]
            grad_CE = some_C3NH.flatten(1)
            _add_product(grad_wqkv, grad_CE.t(), norm.again(chunk))
            norm.backward(chunk, grad_CE @ low_wqkv, grad_TD[chunk], grad_hidden_TD[chunk])
        wqkv_dtype, wo_dtype = ctx.dtypes
        weights = _part_neighbours(grad_wqkv, heads).to(wqkv_dtype), grad_wo.to(wo_dtype)
        return grad_hidden_TD, norm.grad_D, *weights, None, None, None, None, None


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
        low_wi, low_wo = wi.to(dtype), wo.to(dtype)
        kept_rows = num_tokens if keep else min(CHUNK_ROWS, num_tokens)
        input_TI, gate_TI = (low_wi.new_empty((kept_rows, inner)) for _ in range(2))
        result_TD = torch.empty_like(hidden_TD)
        for chunk in _chunks(num_tokens):
            normed_CD = norm.forward(chunk)
            place = chunk if keep else slice(0, normed_CD.shape[0])
            input_CI = torch.mm(normed_CD, low_wi[:inner].t(), out=input_TI[place])
            gate_CI = torch.mm(normed_CD, low_wi[inner:].t(), out=gate_TI[place])
            _add_low(hidden_TD[chunk], F.gelu(input_CI).mul_(gate_CI) @ low_wo.t(), result_TD[chunk])
        if keep:
            saved = hidden_TD, norm.mean_T1, norm.rstd_T1, norm_D, low_wi, low_wo, input_TI, gate_TI
            ctx.save_for_backward(*saved)
            ctx.eps, ctx.dtypes = norm_eps, (wi.dtype, wo.dtype)
        return result_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, mean_T1, rstd_T1, norm_D, low_wi, low_wo, input_TI, gate_TI = ctx.saved_tensors
        grad_TD, inner, dtype = grads[0], low_wo.shape[1], low_wi.dtype
        norm = _Norm(hidden_TD, norm_D, ctx.eps, dtype)
        norm.mean_T1, norm.rstd_T1 = mean_T1, rstd_T1
        grad_wi, grad_wo, grad_hidden_TD = _zeros_fp32(low_wi), _zeros_fp32(low_wo), torch.empty_like(hidden_TD)
        for chunk in _chunks(hidden_TD.shape[0]):
            low_CD, input_CI, gate_CI = grad_TD[chunk].to(dtype), input_TI[chunk], gate_TI[chunk]
            grad_CI, active_CI = low_CD @ low_wo, F.gelu(input_CI)
            grad_gate_CI = grad_CI * active_CI
            _add_product(grad_wo, low_CD.t(), active_CI.mul_(gate_CI))
            grad_input_CI = _aten.gelu_backward(grad_CI.mul_(gate_CI), input_CI)
            normed_CD = norm.again(chunk)
            _add_product(grad_wi[:inner], grad_input_CI.t(), normed_CD)
            _add_product(grad_wi[inner:], grad_gate_CI.t(), normed_CD)
            grad_normed_CD = torch.addmm(grad_input_CI @ low_wi[:inner], grad_gate_CI, low_wi[inner:])
            norm.backward(chunk, grad_normed_CD, grad_TD[chunk], grad_hidden_TD[chunk])
        wi_dtype, wo_dtype = ctx.dtypes
        return grad_hidden_TD, norm.grad_D, grad_wi.to(wi_dtype), grad_wo.to(wo_dtype), None, None, None
