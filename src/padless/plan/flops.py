"""How much arithmetic a step cannot do without: the figure that throughput is compared with the hardware's by.

Only what the loss needs is counted: the layers' matrices for real tokens, head and decoder for masked positions, and
attention for the query-key pairs that are allowed, so that no padding, filler or masked-out score earns anything. A
multiplication and an addition are two. Norms, activations, softmax, RoPE, embeddings and the optimizer are left out,
as is usual. A backward pass is twice the forward: one product for the gradient of each factor.
"""

from collections.abc import Sequence

from padless.config.schema import ModelConfig

_PER_MULTIPLY_ADD = 2
_FORWARD_AND_BACKWARD = 3


def step_flops(model: ModelConfig, segment_lengths: Sequence[int], masked_tokens: int) -> int:
    """Return the necessary floating-point operations of forward and backward together.

    Args:
        model: shape.
        segment_lengths: tokens of each segment, without filler.
        masked_tokens: positions on which loss falls.
    """
    return _FORWARD_AND_BACKWARD * forward_flops(model, segment_lengths, masked_tokens)


def forward_flops(model: ModelConfig, segment_lengths: Sequence[int], masked_tokens: int = 0) -> int:
    """Return the necessary floating-point operations of the forward pass; without masked tokens the encoder's alone.

    Args:
        model: shape.
        segment_lengths: tokens of each segment, without filler.
        masked_tokens: positions that head and decoder see.
    """
    width, inner = model.hidden_size, model.intermediate_size
    layer_weights = 4 * width * width + 3 * inner * width  # Wqkv, Wo; Wi, Wo
    matrices = sum(segment_lengths) * model.num_layers * layer_weights
    head = masked_tokens * width * (width + model.vocab_size)
    return _PER_MULTIPLY_ADD * (matrices + head) + attention_flops(model, segment_lengths)


def attention_flops(model: ModelConfig, segment_lengths: Sequence[int]) -> int:
    """Return the part of :func:`forward_flops` that is attention: scores, and their sums of values, in all layers."""
    global_layers = -(-model.num_layers // model.global_every_layers)
    pairs = global_layers * attended_pairs(segment_lengths, None)
    pairs += (model.num_layers - global_layers) * attended_pairs(segment_lengths, model.local_window_tokens)
    return _PER_MULTIPLY_ADD * 2 * model.hidden_size * pairs  # all heads together


def attended_pairs(segment_lengths: Sequence[int], window_tokens: int | None) -> int:
    """Return how many query-key pairs are allowed: within a segment, ``window_tokens // 2`` to each side, or all."""
    if window_tokens is None:
        return sum(length * length for length in segment_lengths)
    reach = window_tokens // 2
    return sum(
        length * length if reach >= length - 1 else length * (2 * reach + 1) - reach * (reach + 1)
        for length in segment_lengths
    )
