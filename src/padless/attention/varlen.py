"""FlashAttention (Dao 2023) for packed segments as torch itself carries it: no package to build.

Two entries to the same kernel: for local layers ``torch.nn.attention.varlen.varlen_attn`` where it takes a window (its
first releases did not), else the operator under it, ``aten::_flash_attention_forward``, which on torch 2.7 has
``cum_seq_q`` and ``window_size_left/right`` and a registered gradient. Global layers always take the operator: newer
releases of ``varlen_attn`` hand them to cuDNN on Hopper and datacentre Blackwell GPUs, where an encoder ran at a fifth
of its speed (pytorch/pytorch#187770), presumably since cuDNN plans anew for the shapes of every batch. Needs a
CUDA GPU of compute capability 8.0 or more and bf16 or fp16 activations.

Legend: T packed tokens, N heads, H head width, 3 = query, key, value.
"""

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from padless.attention.api import SegmentLayout, window_reach
from padless.attention.repeatable import with_repeatable_backward
from padless.errors import ConfigError


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised.

    Raises:
        ConfigError: a CPU tensor, or one that is not bf16 or fp16.
    """
    layout.check(qkv_T3NH)
    check_kernel_input("varlen", qkv_T3NH)
    reach = window_reach(window_tokens)
    side = -1 if reach is None else reach
    entry = None if reach is None else module_entry()
    if entry is not None:
        return with_repeatable_backward(_attend_by_module(entry, qkv_T3NH, layout, side))
    return with_repeatable_backward(_attend_by_operator(qkv_T3NH, layout, side))


def check_kernel_input(backend: str, qkv_T3NH: Tensor) -> None:
    """Refuse what the FlashAttention kernels cannot take, in words.

    Raises:
        ConfigError: a CPU tensor, or one that is not bf16 or fp16.
    """
    if qkv_T3NH.device.type == "cpu":
        raise ConfigError(
            f"attention backend {backend} was given a CPU tensor", "set hardware.attention_backend=sdpa on a CPU"
        )
    if qkv_T3NH.dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError(
            f"attention backend {backend} was given {qkv_T3NH.dtype}, and takes bf16 or fp16",
            "set hardware.precision=bf16, or hardware.attention_backend=sdpa",
        )


@functools.cache
def module_entry() -> Callable[..., Tensor] | None:
    """Return ``varlen_attn`` where this torch has it with a window; its first releases had none."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    varlen_attn = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _attend_by_module(varlen_attn: Callable[..., Tensor], qkv_T3NH: Tensor, layout: SegmentLayout, side: int) -> Tensor:
    borders_S1, longest = layout.cu_seqlens_S1, layout.max_seqlen
    q_TNH, k_TNH, v_TNH = qkv_T3NH.unbind(1)
    return varlen_attn(q_TNH, k_TNH, v_TNH, borders_S1, borders_S1, longest, longest, window_size=(side, side))


def _attend_by_operator(qkv_T3NH: Tensor, layout: SegmentLayout, side: int) -> Tensor:
    q_TNH, k_TNH, v_TNH = qkv_T3NH.unbind(1)
    operator = cast(Callable[..., tuple[Tensor, ...]], torch.ops.aten._flash_attention_forward)
    return operator(
        q_TNH,
        k_TNH,
        v_TNH,
        cum_seq_q=layout.cu_seqlens_S1,
        cum_seq_k=layout.cu_seqlens_S1,
        max_q=layout.max_seqlen,
        max_k=layout.max_seqlen,
        dropout_p=0.0,
        is_causal=False,
        return_debug_mask=False,
        window_size_left=side,
        window_size_right=side,
    )[0]
