"""Attention alone as a function of packed queries, keys and values: our backends, and what one writes without them.

``padded`` is torch's scaled_dot_product_attention over one padded batch with a mask of real keys and, in local layers,
of the window, as transformers builds it. Its inputs are padded beforehand and that is not timed.

Legend: T packed tokens, B rows, L places a row, N heads, H head width, 3 = query, key, value.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from padless.attention.api import SegmentLayout, window_reach
from padless.attention.select import get_backend
from padless.bench.shapes import PADDED


def attention_of(
    who: str, qkv_T3NH: Tensor, segment_lengths: Sequence[int], window_tokens: int | None
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that attends forward and backward and returns output and gradient.

    Args:
        who: ``padded`` or a backend's name.
        qkv_T3NH: packed input; its gradient is that of the output's sum.
        segment_lengths: of the segments.
        window_tokens: of a local layer, or None.

    Returns:
        out_TNH and grad_T3NH; padded ones where ``who`` is ``padded``: out_BLNH and grad_3BNLH.
    """
    return (
        _padded(qkv_T3NH, segment_lengths, window_tokens)
        if who == PADDED
        else _packed(who, qkv_T3NH, tuple(segment_lengths), window_tokens)
    )


def _packed(
    who: str, qkv_T3NH: Tensor, segment_lengths: tuple[int, ...], window_tokens: int | None
) -> Callable[[], tuple[Tensor, Tensor]]:
    attend = get_backend(who)
    qkv_T3NH = qkv_T3NH.detach().requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        layout = SegmentLayout.from_lengths(segment_lengths)  # a batch's own: its plans and masks are part of the work
        out_TNH = attend(qkv_T3NH, layout, window_tokens)
        (grad_T3NH,) = torch.autograd.grad(out_TNH, qkv_T3NH, torch.ones_like(out_TNH))
        return out_TNH, grad_T3NH

    return run


def pad_packed(rows_T: Tensor, segment_lengths: Sequence[int]) -> Tensor:
    """Return [B, L, ...] from [T, ...]: a row a segment, zeros behind its end."""
    return torch.nn.utils.rnn.pad_sequence(list(rows_T.split(list(segment_lengths))), batch_first=True)


def _padded(
    qkv_T3NH: Tensor, segment_lengths: Sequence[int], window_tokens: int | None
) -> Callable[[], tuple[Tensor, Tensor]]:
    qkv_3BNLH = pad_packed(qkv_T3NH, segment_lengths).permute(2, 0, 3, 1, 4).contiguous().requires_grad_()
    lengths_B, reach = torch.tensor(segment_lengths), window_reach(window_tokens)

    def run() -> tuple[Tensor, Tensor]:
        place_L = torch.arange(qkv_3BNLH.shape[3])
        is_seen_B1LL = (place_L < lengths_B[:, None])[:, None, None, :]
        if reach is not None:
            is_seen_B1LL = is_seen_B1LL & ((place_L[:, None] - place_L[None, :]).abs() <= reach)
        bias_B1LL = torch.zeros(is_seen_B1LL.shape, dtype=qkv_3BNLH.dtype)
        bias_B1LL.masked_fill_(~is_seen_B1LL, torch.finfo(qkv_3BNLH.dtype).min)
        q_BNLH, k_BNLH, v_BNLH = qkv_3BNLH.unbind()
        out_BNLH = F.scaled_dot_product_attention(q_BNLH, k_BNLH, v_BNLH, attn_mask=bias_B1LL)
        (grad_3BNLH,) = torch.autograd.grad(out_BNLH, qkv_3BNLH, torch.ones_like(out_BNLH))
        return out_BNLH.transpose(1, 2), grad_3BNLH

    return run
