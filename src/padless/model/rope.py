"""Rotary position embedding (Su et al. 2021, eq. 34) on packed queries and keys, positions counted within a segment.

Feature h and feature h + H/2 are one pair, as in Hugging Face's ModernBERT. The tables are made once a batch and theta
and shared by all layers; they are fp32, and so is the rotation, whatever the dtype of the activations. There are no
buffers: theta is a setting of the phase, given to the encoder's constructor.

Legend: T packed tokens, N heads, H head width, C = H / 2 pairs, 3 = query, key, value.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from padless.kernels.select import uses_triton


@dataclass(frozen=True)
class RopeTable:
    """cos and sin of every position's angles, fp32 [T, 1, 1, C]."""

    cos_T11C: Tensor
    sin_T11C: Tensor

    def chunk(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return cos and sin of some rows, fp32 [rows, C]."""
        return self.cos_T11C[rows].flatten(1), self.sin_T11C[rows].flatten(1)


def rope_table(positions_T: Tensor, head_width: int, theta: float) -> RopeTable:
    """Return the table of one theta for one batch.

    Args:
        positions_T: int64 [T] positions within segments.
        head_width: H, even.
        theta: base of the geometric series of frequencies.
    """
    exponent_C = torch.arange(0, head_width, 2, dtype=torch.int64, device=positions_T.device).float() / head_width
    angle_TC = positions_T.float()[:, None] * (1.0 / theta**exponent_C)
    return RopeTable(angle_TC.cos()[:, None, None], angle_TC.sin()[:, None, None])


def _turn(x_T3NH: Tensor, table: RopeTable, direction: int) -> Tensor:
    """Return a copy with query and key turned by the table's angles (direction 1) or back (-1), value as it is."""
    half = x_T3NH.shape[-1] // 2
    out_T3NH = torch.empty_like(x_T3NH)
    first, second = x_T3NH[:, :2, :, :half], x_T3NH[:, :2, :, half:]
    _combine(first, table.cos_T11C, second, table.sin_T11C, -direction, out_T3NH[:, :2, :, :half])
    _combine(second, table.cos_T11C, first, table.sin_T11C, direction, out_T3NH[:, :2, :, half:])
    out_T3NH[:, 2] = x_T3NH[:, 2]
    return out_T3NH


def _combine(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, sign: int, out: Tensor) -> None:
    """Put a * a_scale + sign * b * b_scale, computed in fp32, into ``out``."""
    if out.dtype == torch.float32:
        torch.mul(a, a_scale, out=out).addcmul_(b, b_scale, value=sign)
    else:
        out.copy_(torch.addcmul(a * a_scale, b, b_scale, value=sign))


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back, so that nothing but the shared table is kept."""

    @staticmethod
    def forward(ctx: Any, qkv_T3NH: Tensor, table: RopeTable) -> Tensor:
        ctx.table = table
        return _turn(qkv_T3NH, table, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _turn(grads[0], ctx.table, -1), None


def rotate_packed(qkv_TE: Tensor, num_heads: int, table: RopeTable) -> Tensor:
    """Return what ``Wqkv`` puts out as qkv_T3NH with queries and keys rotated; where Triton runs, in place.

    Args:
        qkv_TE: [T, 3 N H].
        num_heads: N.
        table: the layer's rotation.
    """
    shape = (qkv_TE.shape[0], 3, num_heads, -1)
    if uses_triton(qkv_TE.device.type):
        from padless.kernels.triton_rope import rotate_in_place

        return rotate_in_place(qkv_TE, table.cos_T11C.flatten(1), table.sin_T11C.flatten(1)).view(shape)
    return rotate(qkv_TE.view(shape), table)


def rotate(qkv_T3NH: Tensor, table: RopeTable) -> Tensor:
    """Return packed query, key and value with query and key rotated to their positions."""
    return cast(Tensor, _Rotate.apply(qkv_T3NH, table))
