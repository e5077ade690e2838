"""How many parameters a shape has, by arithmetic: no torch, so that ``check`` and ``plan`` stay quick."""

from dataclasses import dataclass

from padless.config.schema import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part. The decoder's weight is the embeddings' and is counted there."""

    embeddings: int  # tokens and norm
    layers: int
    final_norm: int
    head: int  # dense, norm, and the decoder's bias

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embeddings + self.layers + self.final_norm + self.head


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Return the parameters of :class:`padless.model.masked_lm.MaskedLM` for this shape.

    A layer holds Wqkv (3 D x D), Wo (D x D), Wi (2 I x D), Wo (D x I) and two norms (D each); layer 0 has one.
    """
    width, inner = model.hidden_size, model.intermediate_size
    per_layer = 4 * width * width + 3 * inner * width + 2 * width
    return ParameterCount(
        embeddings=model.vocab_size * width + width,
        layers=model.num_layers * per_layer - width,
        final_norm=width,
        head=width * width + width + model.vocab_size,
    )
