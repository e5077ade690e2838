"""Cross-entropy of a vocabulary projection, row chunk by row chunk, so that the logits of all rows never exist at once.

The gradient is worked out in the forward pass, while a chunk's logits are at hand: with V = 50,368 that saves keeping
or recomputing M x V values. Matrix products run in the autocast dtype, where there is one; logits, softmax, loss and
the gradients of weight and bias are fp32.

Legend: M masked positions, D model width, V vocabulary, C rows of a chunk.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ROWS_CPU = 256  # logits of a chunk stay near the cores' cache
_CHUNK_LOGITS_GPU = 2**27  # 512 MiB of fp32 logits


def chunk_rows(device_type: str, vocab_size: int) -> int:
    """Return how many rows' logits exist at once."""
    return _CHUNK_ROWS_CPU if device_type == "cpu" else max(_CHUNK_ROWS_CPU, _CHUNK_LOGITS_GPU // vocab_size)


def cross_entropy_sum(x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_M: Tensor, rows: int) -> Tensor:
    """Return the sum over M of -log softmax(x W^T + b)[label], an fp32 scalar; 0 for M = 0, with zero gradients.

    Args:
        x_MD: hidden states after the head.
        weight_VD: decoder weight.
        bias_V: decoder bias.
        labels_M: int64 [M] target ids.
        rows: rows a chunk.
    """
    device_type = x_MD.device.type
    is_autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if is_autocast else x_MD.dtype
    with torch.autocast(device_type, enabled=False):
        args = (x_MD.to(dtype), weight_VD, bias_V, labels_M, rows, torch.is_grad_enabled())
        return cast(Tensor, _CrossEntropySum.apply(*args))


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd contexts take any attribute
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        labels_M: Tensor,
        rows: int,
        needs_grad: bool,
    ) -> Tensor:
        compute_VD, bias_fp32_V = weight_VD.to(x_MD.dtype), bias_V.float()
        loss = torch.zeros((), dtype=torch.float32, device=x_MD.device)
        grad_x_MD = torch.empty_like(x_MD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_grad else None
        grad_bias_V = torch.zeros_like(bias_fp32_V) if needs_grad else None
        for start in range(0, x_MD.shape[0], rows):
            x_CD, labels_C1 = x_MD[start : start + rows], labels_M[start : start + rows, None]
            logits_CV = (x_CD @ compute_VD.t()).float().add_(bias_fp32_V)
            target_C1 = logits_CV.gather(1, labels_C1)
            largest_C1 = logits_CV.amax(1, keepdim=True)
            exp_CV = logits_CV.sub_(largest_C1).exp_()
            total_C1 = exp_CV.sum(1, keepdim=True)
            loss += (total_C1.log() + largest_C1 - target_C1).sum()
            if grad_x_MD is None or grad_weight_VD is None or grad_bias_V is None:
                continue
            grad_CV = exp_CV.div_(total_C1)
            grad_CV.scatter_add_(1, labels_C1, grad_CV.new_full(labels_C1.shape, -1.0))
            grad_bias_V += grad_CV.sum(0)
            grad_CV = grad_CV.to(x_MD.dtype)
            torch.mm(grad_CV, compute_VD, out=grad_x_MD[start : start + rows])
            if x_MD.dtype == torch.float32:
                grad_weight_VD.addmm_(grad_CV.t(), x_CD)
            else:
                grad_weight_VD += grad_CV.t() @ x_CD
        if needs_grad:
            ctx.save_for_backward(grad_x_MD, grad_weight_VD, grad_bias_V)
            ctx.dtypes = weight_VD.dtype, bias_V.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_MD, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        scale = grads[0]
        grad_x = (grad_x_MD * scale).to(grad_x_MD.dtype)
        return grad_x, (grad_weight_VD * scale).to(weight_dtype), (grad_bias_V * scale).to(bias_dtype), None, None, None
