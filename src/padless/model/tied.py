"""Token embeddings that share their matrix with the decoder, and share one gradient with it too.

Autograd would make the decoder's gradient [V, D], another of zeros for the embeddings' rows, and add the two: at
V = 50,368 that is three times the memory traffic. Here the decoder's gradient waits until the embeddings' backward
pass, which comes last, adds its rows to it.

Legend: T packed tokens, D model width, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedGradient:
    """Holds the decoder's gradient of one forward pass until the embeddings take it."""

    def __init__(self) -> None:
        self.waiting: Tensor | None = None


def embed(weight_VD: Tensor, input_ids_T: Tensor, tied: TiedGradient) -> Tensor:
    """Return the rows of the matrix; its gradient includes what waits in ``tied``."""
    return cast(Tensor, _Embed.apply(weight_VD, input_ids_T, tied))


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, input_ids_T: Tensor, tied: TiedGradient) -> Tensor:
        ctx.save_for_backward(input_ids_T)
        ctx.tied, ctx.shape, ctx.dtype = tied, weight_VD.shape, weight_VD.dtype
        return weight_VD.index_select(0, input_ids_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (input_ids_T,) = ctx.saved_tensors
        total_VD, ctx.tied.waiting = ctx.tied.waiting, None
        if total_VD is None:
            total_VD = torch.zeros(ctx.shape, dtype=ctx.dtype, device=grads[0].device)
        return total_VD.index_add_(0, input_ids_T, grads[0].to(total_VD.dtype)), None, None
