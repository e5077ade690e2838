"""The ModernBERT encoder (Warner et al. 2024) on flat tokens: embeddings, layers, final norm.

Modules and parameters carry the names of Hugging Face's ``ModernBertModel``, so that state dicts transfer as they are.

Legend: T packed tokens, D model width, V vocabulary.
"""

from torch import Tensor, nn

from padless.attention.api import AttentionBackend, SegmentLayout
from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.model.block import Layer, layer_norm
from padless.model.rope import rope_table
from padless.model.tied import TiedGradient, embed


class Embeddings(nn.Module):
    """Token embeddings [V, D] and a norm; there are no position embeddings."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(model.vocab_size, model.hidden_size)
        self.norm = layer_norm(model)
        self.drop = nn.Dropout(model.embedding_dropout)

    def forward(self, input_ids_T: Tensor, tied: TiedGradient | None = None) -> Tensor:
        """Return hidden_TD; ``tied`` holds the decoder's part of the matrix's gradient in the backward pass."""
        if tied is None:
            return self.drop(self.norm(self.tok_embeddings(input_ids_T)))
        return self.drop(self.norm(embed(self.tok_embeddings.weight, input_ids_T, tied)))


class Encoder(nn.Module):
    """Packed tokens to hidden states; a token's state depends on its own segment alone.

    Args:
        model: shape.
        rope: theta of global and of local layers for this phase; readable as ``rope``.
        backend: the attention kernel.
    """

    def __init__(self, model: ModelConfig, rope: RopeConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.rope = rope
        self.head_width = model.hidden_size // model.num_heads
        self.embeddings = Embeddings(model)
        self.layers = nn.ModuleList(Layer(model, number, backend) for number in range(model.num_layers))
        self.final_norm = layer_norm(model)

    def forward(self, batch: PackedBatch, tied: TiedGradient | None = None) -> Tensor:
        """Return hidden_TD of every token, filler included."""
        layout = SegmentLayout(batch.cu_seqlens_S1, batch.segment_lengths)
        thetas = {self.rope.global_theta, self.rope.local_theta}
        tables = {theta: rope_table(layout.positions_T, self.head_width, theta) for theta in thetas}
        hidden_TD = self.embeddings(batch.input_ids_T, tied)
        for layer in self.layers:
            theta = self.rope.global_theta if layer.is_global else self.rope.local_theta
            hidden_TD = layer(hidden_TD, layout, tables[theta])  # pyright: ignore[reportArgumentType]  # theta is a float
        return self.final_norm(hidden_TD)
