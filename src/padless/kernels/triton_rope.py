"""Rotary position embedding in place on packed queries and keys: one Triton program a token.

Feature h and feature h + H/2 are one pair (:mod:`padless.model.rope`). A program reads the token's cos and sin once and
turns all heads of query and key; values are not touched. Computed in fp32, whatever the dtype of the activations. The
positions are in the tables, which count them within segments, so packing costs nothing.

Legend: T packed tokens, N heads, H head width, C = H / 2 pairs, E = 3 N H (query, key, value one after the other).
"""

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


@triton.jit
def _turn_kernel(
    qkv_TE,  # noqa: ANN001
    cos_TC,  # noqa: ANN001
    sin_TC,  # noqa: ANN001
    row_stride,  # noqa: ANN001
    direction,  # noqa: ANN001
    heads: tl.constexpr,  # of query and key together
    pairs: tl.constexpr,
    heads_block: tl.constexpr,
    pairs_block: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, pairs_block)
    head = tl.arange(0, heads_block)
    is_pair = pair < pairs
    cos = tl.load(cos_TC + token * pairs + pair, mask=is_pair, other=0.0)[None, :]
    sin = tl.load(sin_TC + token * pairs + pair, mask=is_pair, other=0.0)[None, :] * direction
    places = qkv_TE + token * row_stride + head[:, None] * (2 * pairs) + pair[None, :]
    is_inside = (head[:, None] < heads) & is_pair[None, :]
    first = tl.load(places, mask=is_inside, other=0.0).to(tl.float32)
    second = tl.load(places + pairs, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(places, first * cos - second * sin, mask=is_inside)
    tl.store(places + pairs, second * cos + first * sin, mask=is_inside)


def turn(qkv_TE: Tensor, cos_TC: Tensor, sin_TC: Tensor, direction: int) -> None:
    """Turn queries and keys by the tables' angles, in place.

    Args:
        qkv_TE: packed query, key and value of every token; any floating dtype, features contiguous.
        cos_TC: fp32 cosines of every token's angles, contiguous.
        sin_TC: their sines.
        direction: 1 turns, -1 turns back.

    Raises:
        ValueError: shapes or strides that do not fit.
    """
    tokens, pairs = cos_TC.shape
    heads, rest = divmod(2 * qkv_TE.shape[-1], 3 * 2 * pairs)
    if qkv_TE.ndim != 2 or qkv_TE.shape[0] != tokens or rest or qkv_TE.stride(1) != 1 or sin_TC.shape != cos_TC.shape:
        raise ValueError(
            f"qkv_TE of shape {tuple(qkv_TE.shape)} and strides {qkv_TE.stride()} does not hold 3 x heads x "
            f"{2 * pairs} features of {tokens} tokens, as the tables of shape {tuple(cos_TC.shape)} ask"
        )
    with torch.cuda.device_of(qkv_TE):
        cast(Any, _turn_kernel)[(tokens,)](  # Triton's launcher has no type
            qkv_TE,
            cos_TC.contiguous(),
            sin_TC.contiguous(),
            qkv_TE.stride(0),
            float(direction),
            heads=heads,
            pairs=pairs,
            heads_block=triton.next_power_of_2(heads),
            pairs_block=triton.next_power_of_2(pairs),
        )


class _RotateInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_TE: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        turn(qkv_TE, cos_TC, sin_TC, 1)
        ctx.mark_dirty(qkv_TE)
        ctx.tables = cos_TC, sin_TC  # without gradient, and shared by all layers
        return qkv_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad_TE = grads[0].contiguous()
        cos_TC, sin_TC = ctx.tables
        turn(grad_TE, cos_TC, sin_TC, -1)
        return grad_TE, None, None


def rotate_in_place(qkv_TE: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Return ``qkv_TE`` itself, its queries and keys rotated to their positions.

    Nothing is allocated, forward or backward. Two things are asked for that: ``qkv_TE`` is the output of a linear map
    and not a view (autograd copies the whole gradient of a view that is changed), and what uses the result makes a
    gradient of its own that nobody else holds (all attention backends do), since that is turned back in place.

    Args:
        qkv_TE: output of ``Wqkv``.
        cos_TC: fp32 cosines of every token's angles.
        sin_TC: their sines.

    Raises:
        ValueError: shapes or strides that do not fit.
    """
    return cast(Tensor, _RotateInPlace.apply(qkv_TE, cos_TC, sin_TC))
