"""The flash-attn package (Dao 2023), where somebody has it: one call on packed query, key and value.

Needs a CUDA GPU of compute capability 8.0 and bf16 or fp16 activations, like :mod:`padless.attention.varlen`, which
needs no package; this one spares its backward pass the joining of three gradients.

Legend: T packed tokens, N heads, H head width, 3 = query, key, value.
"""

import importlib
import importlib.util

from torch import Tensor

from padless.attention import repeatable
from padless.attention.api import SegmentLayout, window_reach
from padless.attention.varlen import check_kernel_input
from padless.errors import ConfigError


def attend(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """Return out_TNH; see :mod:`padless.attention.api` for what is promised.

    Raises:
        ConfigError: a CPU tensor, one that is not bf16 or fp16, or flash-attn is not installed.
    """
    layout.check(qkv_T3NH)
    check_kernel_input("flash", qkv_T3NH)
    if importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "attention backend flash needs the package flash-attn, which is not installed",
            "install padless with its extra [flash], or set hardware.attention_backend=varlen",
        )
    reach = window_reach(window_tokens)
    side = -1 if reach is None else reach
    return importlib.import_module("flash_attn").flash_attn_varlen_qkvpacked_func(
        qkv_T3NH,
        layout.cu_seqlens_S1,
        layout.max_seqlen,
        dropout_p=0.0,
        causal=False,
        window_size=(side, side),
        deterministic=repeatable.is_asked_for(),
    )
