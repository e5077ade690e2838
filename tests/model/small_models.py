"""A model small enough to grow in a millisecond, its weights, a batch for it, and its gradients."""

import torch

from padless.config.schema import RopeConfig
from padless.data.batch import PackedBatch
from padless.model.masked_lm import MaskedLM
from padless.model.tensor_shapes import tensor_shapes
from small_shape import small_shape

ROPE = RopeConfig(10_000.0, 10_000.0)
SMALL = small_shape(hidden_size=16, intermediate_size=12, vocab_size=64, local_window_tokens=8)


def draw_weights(model, seed, std=0.3):
    """Weights as a trained model has them: nothing zero, gains around one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(model).items():
        values = torch.randn(shape, generator=generator) * std
        weights[name] = values + 1.0 if name.endswith("norm.weight") else values
    return weights


def build(weights, model):
    """The model with these weights."""
    network = MaskedLM(model, ROPE, "reference")
    network.load_state_dict({**weights, "decoder.weight": weights["model.embeddings.tok_embeddings.weight"]})
    return network.eval()


def packed_batch(vocab_size=64):
    """Two segments, longer than the local window, five masked positions."""
    generator = torch.Generator().manual_seed(3)
    return PackedBatch(
        input_ids_T=torch.randint(0, vocab_size, (40,), generator=generator),
        cu_seqlens_S1=torch.tensor([0, 14, 40], dtype=torch.int32),
        masked_positions_M=torch.tensor([2, 5, 16, 27, 38]),
        labels_M=torch.randint(0, vocab_size, (5,), generator=generator),
        segment_lengths=(14, 26),
        max_seqlen=26,
        num_real_tokens=40,
        num_masked=5,
    )


def logits_of(weights, model):
    """Logits [T, V] on the batch."""
    with torch.no_grad():
        return build(weights, model).logits(packed_batch())


def gradients_of(weights, model):
    """Gradients of the loss on the batch, by name."""
    network = build(weights, model)
    network.loss(packed_batch()).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}
