"""One encoder layer: attention and feed-forward, each behind its own norm, each added to the residual.

Legend: T packed tokens, D model width, N heads, H head width, 3 = query, key, value.
"""

from torch import Tensor, nn

from padless.attention import blocked
from padless.attention.api import AttentionBackend, SegmentLayout
from padless.config.schema import ModelConfig
from padless.kernels.native import can_compute
from padless.model.mlp import Mlp
from padless.model.precision import compute_dtype
from padless.model.rope import RopeTable, rotate_packed
from padless.model.row_chunks import AttentionPart, attention_half, mlp_half


def layer_norm(model: ModelConfig) -> nn.LayerNorm:
    """Return a norm as ModernBERT has it everywhere: no bias."""
    return nn.LayerNorm(model.hidden_size, eps=model.norm_eps, bias=False)


def is_global_layer(model: ModelConfig, layer: int) -> bool:
    """Return whether layer number ``layer`` attends to whole segments: 0, 3, 6, ... in the published models."""
    return layer % model.global_every_layers == 0


class Attention(nn.Module):
    """``Wqkv`` [3 D, D] (query, key, value one after the other, heads within) and ``Wo`` [D, D], without biases."""

    def __init__(self, model: ModelConfig, window_tokens: int | None, backend: AttentionBackend) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(model.hidden_size, 3 * model.hidden_size, bias=False)
        self.Wo = nn.Linear(model.hidden_size, model.hidden_size, bias=False)
        self.out_drop = nn.Dropout(model.attention_out_dropout)
        self.num_heads = model.num_heads
        self.window_tokens = window_tokens
        self._attend = backend
        self.is_blocked = backend is blocked.attend

    def forward(self, hidden_TD: Tensor, layout: SegmentLayout, table: RopeTable) -> Tensor:
        """Return the update of hidden_TD."""
        qkv_T3NH = rotate_packed(self.Wqkv(hidden_TD), self.num_heads, table)
        out_TNH = self._attend(qkv_T3NH, layout, self.window_tokens)
        return self.out_drop(self.Wo(out_TNH.flatten(1)))


class Layer(nn.Module):
    """Layer ``number`` of the encoder; layer 0 has no norm before its attention, since the embeddings end in one."""

    def __init__(self, model: ModelConfig, number: int, backend: AttentionBackend) -> None:
        super().__init__()
        self.is_global = is_global_layer(model, number)
        self.attn_norm = nn.Identity() if number == 0 else layer_norm(model)
        self.attn = Attention(model, None if self.is_global else model.local_window_tokens, backend)
        self.mlp_norm = layer_norm(model)
        self.mlp = Mlp(model)

    def forward(self, hidden_TD: Tensor, layout: SegmentLayout, table: RopeTable) -> Tensor:
        """Return hidden_TD after this layer."""
        if self._in_row_chunks(hidden_TD):
            return self._forward_in_row_chunks(hidden_TD, layout, table)
        hidden_TD = hidden_TD + self.attn(self.attn_norm(hidden_TD), layout, table)
        return hidden_TD + self.mlp(self.mlp_norm(hidden_TD))

    def _in_row_chunks(self, hidden_TD: Tensor) -> bool:
        """Return whether :mod:`padless.model.row_chunks` can compute this: a CPU, its backend, and no dropout."""
        if hidden_TD.device.type != "cpu" or not self.attn.is_blocked:
            return False
        if not (can_compute(hidden_TD.dtype) and can_compute(compute_dtype(hidden_TD))):
            return False
        return not (self.training and (self.attn.out_drop.p > 0 or self.mlp.drop.p > 0))

    def _forward_in_row_chunks(self, hidden_TD: Tensor, layout: SegmentLayout, table: RopeTable) -> Tensor:
        attn, mlp = self.attn, self.mlp
        norm_D = None if isinstance(self.attn_norm, nn.Identity) else self.attn_norm.weight
        part = AttentionPart(attn.num_heads, attn.window_tokens, self.mlp_norm.eps)
        hidden_TD = attention_half(hidden_TD, norm_D, attn.Wqkv.weight, attn.Wo.weight, part, layout, table)
        return mlp_half(hidden_TD, self.mlp_norm.weight, mlp.Wi.weight, mlp.Wo.weight, self.mlp_norm.eps)
