"""Cross-entropy of a vocabulary projection with a fused Triton kernel: the contract of :mod:`padless.model.loss`.

Row chunk by row chunk: logits by one matrix product, then one kernel that adds the bias, works out loss and gradient of
each row in fp32 and writes the gradient over the logits. A chunk is read twice and written once, and no second buffer
of its size exists. The gradients of x, weight and bias are ready after the forward pass.

Legend: M masked positions, D model width, V vocabulary, C rows of a chunk.
"""

from typing import Any, Protocol, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from padless.data.batch import IGNORED

_BLOCK_COLUMNS = 4096  # vocabulary entries a program holds in registers at once


@triton.jit
def _loss_kernel(
    logits_CV,  # noqa: ANN001
    bias_V,  # noqa: ANN001
    labels_C,  # noqa: ANN001
    loss_C,  # noqa: ANN001
    log_sum_C,  # noqa: ANN001
    row_stride,  # noqa: ANN001
    vocab_size,  # noqa: ANN001
    z_loss,  # noqa: ANN001
    ignored: tl.constexpr,
    writes_gradient: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_C + row)
    logits_V = logits_CV + row * row_stride
    column = tl.arange(0, block)
    if label == ignored:
        tl.store(loss_C + row, 0.0)
        tl.store(log_sum_C + row, 0.0)
        if writes_gradient:
            for start in range(0, vocab_size, block):
                is_inside = start + column < vocab_size
                tl.store(logits_V + start + column, tl.zeros((block,), tl.float32), mask=is_inside)
    else:
        target = tl.load(logits_V + label).to(tl.float32) + tl.load(bias_V + label).to(tl.float32)
        largest = float("-inf")
        total = 0.0
        for start in range(0, vocab_size, block):
            is_inside = start + column < vocab_size
            x = tl.load(logits_V + start + column, mask=is_inside, other=float("-inf")).to(tl.float32)
            x += tl.load(bias_V + start + column, mask=is_inside, other=0.0).to(tl.float32)
            new_largest = tl.maximum(largest, tl.max(x))
            total = total * tl.exp(largest - new_largest) + tl.sum(tl.exp(x - new_largest))
            largest = new_largest
        log_sum = largest + tl.log(total)
        tl.store(loss_C + row, log_sum - target)
        tl.store(log_sum_C + row, log_sum)
        if writes_gradient:
            weight = 1.0 + 2.0 * z_loss * log_sum  # exactly 1 without z-loss
            for start in range(0, vocab_size, block):
                is_inside = start + column < vocab_size
                x = tl.load(logits_V + start + column, mask=is_inside, other=float("-inf")).to(tl.float32)
                x += tl.load(bias_V + start + column, mask=is_inside, other=0.0).to(tl.float32)
                share = tl.exp(x - log_sum) * weight
                tl.store(logits_V + start + column, tl.where(start + column == label, share - 1.0, share), is_inside)


def loss_and_gradient_in_place(
    logits_CV: Tensor, bias_V: Tensor, labels_C: Tensor, writes_gradient: bool = True, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return loss_C, -log softmax(logits + bias)[label] of each row, and log_sum_C, the log of its sum of exponentials.

    Both are fp32, and 0 where the label is IGNORED.

    Args:
        logits_CV: without the bias, rows contiguous; the gradient of loss + ``z_loss`` x log_sum^2 is written over them
            in their dtype: softmax times 1 + 2 ``z_loss`` log_sum, less one-hot; 0 in ignored rows.
        bias_V: any floating dtype.
        labels_C: int64 target ids.
        writes_gradient: whether the logits are overwritten.
        z_loss: weight of the squared log-normaliser in the gradient.
    """
    rows, vocab_size = logits_CV.shape
    loss_C, log_sum_C = torch.empty(2, rows, dtype=torch.float32, device=logits_CV.device)
    block = min(_BLOCK_COLUMNS, triton.next_power_of_2(vocab_size))
    with torch.cuda.device_of(logits_CV):
        cast(Any, _loss_kernel)[(rows,)](  # Triton's launcher has no type
            logits_CV,
            bias_V.contiguous(),
            labels_C.contiguous(),
            loss_C,
            log_sum_C,
            logits_CV.stride(0),
            vocab_size,
            float(z_loss),
            ignored=IGNORED,
            writes_gradient=writes_gradient,
            block=block,
            num_warps=8 if block >= 2048 else 4,
        )
    return loss_C, log_sum_C


class KeepsGradient(Protocol):
    """Who gets the weight's gradient in its place: :class:`padless.model.tied.TiedGradient`."""

    waiting: Tensor | None


def cross_entropy_triton(
    x_MD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_M: Tensor,
    rows: int,
    z_loss: float = 0.0,
    tied: KeepsGradient | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -log softmax(x W^T + b)[label] summed, an fp32 scalar with gradients, and by row, fp32 [M] without.

    The sum has the z-loss in it, the rows have not. It is 0 for M = 0, with zero gradients. To be called without
    autocast: matrix products run in the dtype of x.

    Args:
        x_MD: hidden states after the head, in the compute dtype.
        weight_VD: decoder weight.
        bias_V: decoder bias.
        labels_M: int64 [M] target ids; rows with the label IGNORED have neither loss nor gradient.
        rows: rows a chunk.
        z_loss: weight of the squared log-normaliser; 0 leaves it out.
        tied: gets the weight's gradient instead of the weight, to be completed by the embeddings.
    """
    args = (x_MD, weight_VD, bias_V, labels_M, rows, z_loss, tied, torch.is_grad_enabled())
    return cast(tuple[Tensor, Tensor], _CrossEntropy.apply(*args))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd contexts take any attribute
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        labels_M: Tensor,
        rows: int,
        z_loss: float,
        tied: KeepsGradient | None,
        needs_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        compute_VD = weight_VD.to(x_MD.dtype)
        loss_M = torch.zeros(x_MD.shape[0], dtype=torch.float32, device=x_MD.device)
        log_sum_M = torch.zeros_like(loss_M)
        grad_x_MD = torch.empty_like(x_MD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_grad else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs_grad else None
        for start in range(0, x_MD.shape[0], rows):
            chunk = slice(start, start + rows)
            x_CD, grad_CV = x_MD[chunk], x_MD[chunk] @ compute_VD.t()
            loss_M[chunk], log_sum_M[chunk] = loss_and_gradient_in_place(
                grad_CV, bias_V, labels_M[chunk], needs_grad, z_loss
            )
            if grad_x_MD is None or grad_weight_VD is None or grad_bias_V is None:
                continue
            grad_bias_V += grad_CV.sum(0, dtype=torch.float32)
            torch.mm(grad_CV, compute_VD, out=grad_x_MD[chunk])
            if x_MD.dtype == torch.float32:
                grad_weight_VD.addmm_(grad_CV.t(), x_CD)
            else:
                grad_weight_VD += grad_CV.t() @ x_CD
        if needs_grad:
            ctx.save_for_backward(grad_x_MD, grad_weight_VD, grad_bias_V)
            ctx.dtypes, ctx.tied = (weight_VD.dtype, bias_V.dtype), tied
        ctx.mark_non_differentiable(loss_M)
        total = loss_M.sum()
        if z_loss != 0:
            total = total + z_loss * log_sum_M.square_().sum()
        return total, loss_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_MD, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        scale = grads[0]
        grad_x = (grad_x_MD * scale).to(grad_x_MD.dtype)
        grad_weight: Tensor | None = (grad_weight_VD * scale).to(weight_dtype)
        if ctx.tied is not None:
            ctx.tied.waiting, grad_weight = grad_weight, None
        return grad_x, grad_weight, (grad_bias_V * scale).to(bias_dtype), None, None, None, None, None
