"""Cross-entropy of a vocabulary projection, tile by tile, so that the logits never exist at once.

The forward pass keeps one number a row, the log of the sum of exponentials; the backward pass computes each tile of
logits again, turns it into its gradient while it is in the cache, and uses it up. That is one matrix product more than
keeping the logits and a fourth of the memory traffic: M x V values are neither written nor read back. Matrix products
run in the autocast dtype, where there is one; softmax, loss and the gradients of weight and bias are fp32.

    logits      | tile | tile | ...      rows M downwards, vocabulary V to the right
                | tile | ...

What happens to a tile on a CPU is :mod:`padless.kernels.native_logits`. The same in one kernel is
:mod:`padless.kernels.tiled_logits` on a CPU with AMX and, in row chunks, :mod:`padless.kernels.triton_cross_entropy` on
a GPU with Triton.

Legend: M masked positions, D model width, V vocabulary, R rows of a tile, C columns of a tile.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.data.batch import IGNORED
from padless.kernels.native import can_compute
from padless.kernels.native_logits import sum_exponentials, take_shares
from padless.kernels.native_rows import add
from padless.kernels.select import uses_triton
from padless.kernels.tiled_logits import TiledLogits
from padless.kernels.tiles import fits_tiles
from padless.model.precision import compute_dtype
from padless.model.tied import TiedGradient

_TILE_CPU = (2560, 512)  # rows, columns: more rows read and write the matrix and its gradient less often
_TILE_GPU = (8192, 16_384)  # 512 MiB of fp32 logits
_CHUNK_LOGITS_TRITON = 2**27


@dataclass(frozen=True)
class Losses:
    """Losses of one microbatch, in nats."""

    total: Tensor  # fp32 scalar with gradients: the sum over the masked positions, with the z-loss where there is one
    by_row_M: Tensor  # fp32 [M], detached: the cross-entropy alone; 0 where the label is IGNORED


def tile_size(device_type: str) -> tuple[int, int]:
    """Return how many rows and columns of logits exist at once."""
    return _TILE_CPU if device_type == "cpu" else _TILE_GPU


def cross_entropy(
    x_MD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_M: Tensor,
    tile: tuple[int, int] | None = None,
    tied: TiedGradient | None = None,
    z_loss: float = 0.0,
) -> Losses:
    """Return -log softmax(x W^T + b)[label], summed and by row; 0 for M = 0, with zero gradients.

    With ``z_loss`` the sum (not the rows) has ``z_loss x lse^2`` of every row in it, lse being the log of the sum of
    the row's exponentials: it keeps the normaliser near 1 (PaLM, Chowdhery et al. 2022, section 5). A row's gradient by
    its logits is ``softmax x (1 + 2 z_loss lse) - one-hot``.

    Args:
        x_MD: hidden states after the head.
        weight_VD: decoder weight.
        bias_V: decoder bias.
        labels_M: int64 [M] target ids; rows with the label IGNORED have neither loss nor gradient.
        tile: rows and columns of a tile; None takes what suits the device.
        tied: gets the weight's gradient instead of the weight, to be completed by the embeddings.
        z_loss: weight of the squared log-normaliser; 0 leaves it out.
    """
    device_type = x_MD.device.type
    dtype = compute_dtype(x_MD)
    with torch.autocast(device_type, enabled=False):
        if uses_triton(device_type):
            from padless.kernels.triton_cross_entropy import cross_entropy_triton

            rows = max(256, _CHUNK_LOGITS_TRITON // weight_VD.shape[0])
            return Losses(*cross_entropy_triton(x_MD.to(dtype), weight_VD, bias_V, labels_M, rows, z_loss, tied))
        args = (x_MD.to(dtype), weight_VD, bias_V, labels_M, tile or tile_size(device_type), tied, z_loss)
        total, by_row_M = cast(tuple[Tensor, Tensor], _CrossEntropy.apply(*args))
    return Losses(total, by_row_M)


class _Tiles:
    """Logits of one tile at a time, in buffers that are used again."""

    def __init__(self, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, tile: tuple[int, int]) -> None:
        self.x_MD, self.weight_VD, self.bias_V = x_MD, weight_VD, bias_V
        num_rows, num_columns = x_MD.shape[0], weight_VD.shape[0]
        cuts = -(-num_rows // tile[0])
        self.rows, self.columns = -(-num_rows // cuts), min(tile[1], num_columns)
        self._low = x_MD.new_empty(self.rows * self.columns)
        self.has_kernels = x_MD.device.type == "cpu" and can_compute(x_MD.dtype)

    def row_slices(self) -> Iterator[slice]:
        """Yield the rows of one row of tiles after the other."""
        for start in range(0, self.x_MD.shape[0], self.rows):
            yield slice(start, min(start + self.rows, self.x_MD.shape[0]))

    def column_slices(self) -> Iterator[slice]:
        """Yield the columns of one column of tiles after the other."""
        for start in range(0, self.weight_VD.shape[0], self.columns):
            yield slice(start, min(start + self.columns, self.weight_VD.shape[0]))

    def logits(self, x_RD: Tensor, columns: slice) -> Tensor:
        """Return one tile in the compute dtype; it is overwritten by the next."""
        weight_CD = self.weight_VD[columns]
        shape = (x_RD.shape[0], weight_CD.shape[0])
        low_RC = self._low[: math.prod(shape)].view(shape)
        return torch.addmm(self.bias_V[columns], x_RD, weight_CD.t(), out=low_RC)


def _log_sum_exp(tiles: _Tiles) -> Tensor:
    """Return log sum exp of each row's logits, lse_M."""
    if not tiles.has_kernels:
        return _log_sum_exp_by_operators(tiles)
    num_rows = tiles.x_MD.shape[0]
    largest_M, total_M = torch.full((num_rows,), float("-inf")), torch.zeros(num_rows)
    for rows in tiles.row_slices():
        for columns in tiles.column_slices():
            sum_exponentials(tiles.logits(tiles.x_MD[rows], columns), largest_M[rows], total_M[rows])
    return total_M.log_().add_(largest_M)


def _log_sum_exp_by_operators(tiles: _Tiles) -> Tensor:
    lse_M = torch.full((tiles.x_MD.shape[0],), float("-inf"), dtype=torch.float32, device=tiles.x_MD.device)
    for rows in tiles.row_slices():
        for columns in tiles.column_slices():
            tile_R = torch.logsumexp(tiles.logits(tiles.x_MD[rows], columns).float(), 1)
            lse_M[rows] = torch.logaddexp(lse_M[rows], tile_R)
    return lse_M


def _take_shares(tiles: _Tiles, logits_RC: Tensor, lse_R: Tensor, factor_R: Tensor) -> Tensor:
    """Turn logits into exp(logit - lse) x factor in place, and return the fp32 sums over the rows."""
    if tiles.has_kernels:
        return take_shares(logits_RC, lse_R, factor_R)
    share_RC = logits_RC.float().sub_(lse_R[:, None]).exp_().mul_(factor_R[:, None])
    logits_RC.copy_(share_RC)
    return share_RC.sum(0)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd contexts take any attribute
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        labels_M: Tensor,
        tile: tuple[int, int],
        tied: TiedGradient | None,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes, ctx.tile, ctx.tied, ctx.z_loss = (weight_VD.dtype, bias_V.dtype), tile, tied, z_loss
        ctx.in_registers = x_MD.device.type == "cpu" and fits_tiles(x_MD.dtype, x_MD.shape[1])
        weight_VD = weight_VD.to(x_MD.dtype)
        bias_V = bias_V.float() if ctx.in_registers else bias_V.to(x_MD.dtype)
        if x_MD.shape[0] == 0:
            ctx.save_for_backward(x_MD, weight_VD, bias_V, labels_M, labels_M)
            none_M = torch.zeros(0, dtype=torch.float32, device=x_MD.device)
            ctx.mark_non_differentiable(none_M)
            return none_M.sum(), none_M
        is_counted_M = labels_M != IGNORED
        label_M = labels_M.clamp(min=0)
        target_M = (x_MD.float() * weight_VD.index_select(0, label_M).float()).sum(1)
        target_M += bias_V.index_select(0, label_M).float()
        if ctx.in_registers:
            lse_M = TiledLogits(x_MD, weight_VD, bias_V).log_sum_exp()
        else:
            lse_M = _log_sum_exp(_Tiles(x_MD, weight_VD, bias_V, tile))
            target_M = target_M.to(x_MD.dtype).float()  # as logits of tiles are
        # Two sums in different order may differ by a rounding: no loss is below 0.
        by_row_M = torch.where(is_counted_M, (lse_M - target_M).clamp(min=0), 0.0)
        total = by_row_M.sum()
        if z_loss != 0:
            total = total + z_loss * torch.where(is_counted_M, lse_M, 0.0).square_().sum()
        # An ignored row's softmax is exp(logit - inf) = 0.
        lse_M = torch.where(is_counted_M, lse_M, float("inf"))
        ctx.save_for_backward(x_MD, weight_VD, bias_V, labels_M, lse_M)
        ctx.mark_non_differentiable(by_row_M)
        return total, by_row_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, weight_VD, bias_V, labels_M, lse_M = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        if x_MD.shape[0] == 0:
            parts = tuple(torch.zeros_like(each, dtype=torch.float32) for each in (x_MD, weight_VD, bias_V))
        else:
            factor_M = _softmax_weights(lse_M, ctx.z_loss).mul_(grads[0])
            if ctx.in_registers:
                parts = TiledLogits(x_MD, weight_VD, bias_V).gradients(lse_M, factor_M)
            else:
                parts = _gradients(_Tiles(x_MD, weight_VD, bias_V, ctx.tile), lse_M, factor_M)
            _take_one_hot(*parts, x_MD, weight_VD, labels_M, grads[0])
        grad_x_MD, grad_weight_VD, grad_bias_V = parts
        grad_weight: Tensor | None = grad_weight_VD.to(weight_dtype)
        if ctx.tied is not None:
            ctx.tied.waiting, grad_weight = grad_weight, None
        return grad_x_MD.to(x_MD.dtype), grad_weight, grad_bias_V.to(bias_dtype), None, None, None, None


def _gradients(tiles: _Tiles, lse_M: Tensor, factor_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fp32 gradients of x, weight and bias that softmax times factor gives, by the other operand."""
    x_MD, weight_VD = tiles.x_MD, tiles.weight_VD
    grad_x_MD = torch.zeros_like(x_MD, dtype=torch.float32)
    grad_weight_VD = torch.empty_like(weight_VD, dtype=torch.float32)
    grad_bias_V = torch.empty_like(grad_weight_VD[:, 0])
    for rows in tiles.row_slices():
        x_RD, grad_x_RD = x_MD[rows], grad_x_MD[rows]
        for columns in tiles.column_slices():
            share_RC = tiles.logits(x_RD, columns)
            _put(grad_bias_V[columns], _take_shares(tiles, share_RC, lse_M[rows], factor_M[rows]), rows.start)
            _put(grad_weight_VD[columns], share_RC.t() @ x_RD, rows.start)
            part_RD = share_RC @ weight_VD[columns]
            if tiles.has_kernels:
                add(grad_x_RD, part_RD, grad_x_RD)
            else:
                grad_x_RD += part_RD
    return grad_x_MD, grad_weight_VD, grad_bias_V


def _softmax_weights(lse_R: Tensor, z_loss: float) -> Tensor:
    """Return 1 + 2 z lse of each row; 1 in ignored rows, whose lse is infinite and whose softmax is 0."""
    if z_loss == 0:
        return torch.ones_like(lse_R)
    return torch.where(torch.isposinf(lse_R), 1.0, 1.0 + 2.0 * z_loss * lse_R)


def _put(total: Tensor, part: Tensor, is_added: int) -> None:
    """Set or add one row of tiles' part of a gradient."""
    if is_added:
        total += part
    else:
        total.copy_(part)


def _take_one_hot(
    grad_x_MD: Tensor,
    grad_weight_VD: Tensor,
    grad_bias_V: Tensor,
    x_MD: Tensor,
    weight_VD: Tensor,
    labels_M: Tensor,
    scale: Tensor,
) -> None:
    """Take the target's one-hot, times the scale, out of what the softmax gave."""
    minus_M1 = torch.where(labels_M != IGNORED, -scale, 0.0)[:, None]
    label_M = labels_M.clamp(min=0)
    grad_x_MD.addcmul_(weight_VD.index_select(0, label_M).float(), minus_M1)
    grad_weight_VD.index_add_(0, label_M, x_MD.float() * minus_M1)
    grad_bias_V.index_add_(0, label_M, minus_M1[:, 0])
