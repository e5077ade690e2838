"""The halves of a layer before and after attention, compiled by ``torch.compile``.

    hidden -> [norm, Wqkv] -> rotate, attend -> [Wo, residual, norm, GeGLU, residual] -> hidden
               compiled        never compiled     compiled

Attention stays outside: its layout is a Python object that differs from batch to batch, and its kernels are not the
compiler's to improve. So the number and the lengths of segments never reach a compiled part; T is fixed, and the
weights are arguments, so all layers share their graphs. What may bring a new graph: another T (validation takes one
block at a time), a forward pass without gradients, and the first layer, which has no norm. That is counted, and has a
bound.

The halves are written here once more, as plain formulas: what a compiler is to fuse must not be fused by hand already.

Legend: T packed tokens, D model width, E = 3 D, I GeGLU width, N heads, H head width, 3 = query, key, value.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from padless.attention.api import SegmentLayout
from padless.model.block import Layer
from padless.model.masked_lm import MaskedLM
from padless.model.rope import RopeTable, rotate_packed

MAX_GRAPHS = 8
"""Graphs a half may have; what would need more runs uncompiled."""

_graphs: Counter[str] = Counter()


def before_attention(hidden_TD: Tensor, norm_D: Tensor | None, eps: float, wqkv_ED: Tensor) -> Tensor:
    """Return qkv_TE: queries, keys and values of all heads, not rotated yet."""
    normed_TD = hidden_TD if norm_D is None else F.layer_norm(hidden_TD, hidden_TD.shape[-1:], norm_D, None, eps)
    return F.linear(normed_TD, wqkv_ED)


def after_attention(
    out_TD: Tensor,
    hidden_TD: Tensor,
    norm_D: Tensor,
    eps: float,
    weights: tuple[Tensor, Tensor, Tensor],
    dropouts: tuple[float, float],
) -> Tensor:
    """Return hidden_TD after the layer.

    Args:
        out_TD: what attention gave, heads one after the other.
        hidden_TD: what the layer was given.
        norm_D: weight of the norm before the feed-forward.
        eps: of that norm.
        weights: attention's ``Wo`` [D, D], the feed-forward's ``Wi`` [2 I, D] and ``Wo`` [D, I].
        dropouts: rates after attention and within the feed-forward; 0 outside training.
    """
    wo_DD, wi_2ID, wo_DI = weights
    dtype = hidden_TD.dtype  # said, since torch 2.7 otherwise fuses a bf16 product and the fp32 residual, and fails
    hidden_TD = hidden_TD + F.dropout(F.linear(out_TD, wo_DD), dropouts[0]).to(dtype)
    normed_TD = F.layer_norm(hidden_TD, hidden_TD.shape[-1:], norm_D, None, eps)
    input_TI, gate_TI = F.linear(normed_TD, wi_2ID).chunk(2, dim=-1)
    return hidden_TD + F.linear(F.dropout(F.gelu(input_TI) * gate_TI, dropouts[1]), wo_DI).to(dtype)


def compile_layers(model: MaskedLM) -> None:
    """Compile both halves of every layer; parameters, state dict and results stay as they are, up to rounding.

    The first step of each kind takes the compiler's time (on GPUs about a minute).
    """
    for layer in model.model.layers:
        layer.forward = functools.partial(_forward, cast(Layer, layer))


def count_graphs() -> dict[str, int]:
    """Return how many graphs of each half were compiled in this process."""
    return dict(_graphs)


def count_recompiles() -> int:
    """Return how many graphs were compiled in this process after the first of each half."""
    return sum(_graphs.values()) - len(_graphs)


def compile_line() -> str:
    """Return the line that says what was compiled, and whether the bound was reached."""
    full = [half for half, graphs in _graphs.items() if graphs >= MAX_GRAPHS]
    line = f"compiled: {sum(_graphs.values())} graphs, {count_recompiles()} of them recompiles"
    if full:
        return f"{line}; {' and '.join(full)} reached {MAX_GRAPHS}: other shapes run uncompiled"
    return line


def _forward(layer: Layer, hidden_TD: Tensor, layout: SegmentLayout, table: RopeTable) -> Tensor:
    attention, mlp = layer.attn, layer.mlp
    norm = layer.attn_norm
    norm_D, eps = (norm.weight, norm.eps) if isinstance(norm, torch.nn.LayerNorm) else (None, 0.0)
    qkv_TE = _compiled("before attention")(hidden_TD, norm_D, eps, attention.Wqkv.weight)
    qkv_T3NH = rotate_packed(qkv_TE, attention.num_heads, table)
    out_TNH = attention._attend(qkv_T3NH, layout, attention.window_tokens)
    dropouts = (attention.out_drop.p, mlp.drop.p) if layer.training else (0.0, 0.0)
    weights = (attention.Wo.weight, mlp.Wi.weight, mlp.Wo.weight)
    eps = layer.mlp_norm.eps
    return _compiled("after attention")(out_TNH.flatten(1), hidden_TD, layer.mlp_norm.weight, eps, weights, dropouts)


@functools.cache
def _compiled(half: str) -> Callable[..., Tensor]:
    """Return the compiled half; one for the process, since all layers of all models share it."""
    function = {"before attention": before_attention, "after attention": after_attention}[half]
    torch._dynamo.config.cache_size_limit = MAX_GRAPHS
    # Under DDP a graph would be cut at the borders of its buckets, after the first 1 MB of weights already: several
    # graphs with nothing fused across them. Halves are short enough for gradients to travel in between.
    torch._dynamo.config.optimize_ddp = False
    inductor = torch._dynamo.lookup_backend("inductor")

    def counting_inductor(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        _graphs[half] += 1
        return inductor(graph, examples)

    return torch.compile(function, backend=counting_inductor, dynamic=False)
