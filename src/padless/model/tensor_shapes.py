"""Names and shapes of every tensor of a model, from its config alone: what tiling, import and export check against.

The names are those of Hugging Face's ``ModernBertForMaskedLM``. ``decoder.weight`` is tied to the embeddings and so is
not listed: a state dict may hold it (then equal to the embeddings) or not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from padless.config.schema import ModelConfig
from padless.errors import ModelError

EMBEDDING = "model.embeddings.tok_embeddings.weight"
EMBEDDING_NORM = "model.embeddings.norm.weight"
DECODER = "decoder.weight"


def tensor_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor a model of this config must have, in the order of the forward pass."""
    hidden, intermediate = model.hidden_size, model.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (model.vocab_size, hidden), EMBEDDING_NORM: (hidden,)}
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}."
        if layer > 0:
            shapes[prefix + "attn_norm.weight"] = (hidden,)
        shapes[prefix + "attn.Wqkv.weight"] = (3 * hidden, hidden)
        shapes[prefix + "attn.Wo.weight"] = (hidden, hidden)
        shapes[prefix + "mlp_norm.weight"] = (hidden,)
        shapes[prefix + "mlp.Wi.weight"] = (2 * intermediate, hidden)
        shapes[prefix + "mlp.Wo.weight"] = (hidden, intermediate)
    shapes["model.final_norm.weight"] = (hidden,)
    shapes["head.dense.weight"] = (hidden, hidden)
    shapes["head.norm.weight"] = (hidden,)
    shapes["decoder.bias"] = (model.vocab_size,)
    return shapes


def check_state_dict(state_dict: Mapping[str, Tensor], model: ModelConfig, what: str) -> None:
    """Refuse a state dict that is not exactly the weights of ``model``.

    Args:
        state_dict: tensors by name, with or without the tied ``decoder.weight``.
        model: the shape they must have.
        what: what the weights are, for the message, such as ``"source"`` or a folder.

    Raises:
        ModelError: a tensor is missing, unknown, misshapen, not finite, or the decoder is not tied to the embeddings.
    """
    shapes = tensor_shapes(model)
    remedy = f"use weights and a config that belong together ({model.num_layers} layers x {model.hidden_size})"
    missing = sorted(set(shapes) - set(state_dict))
    if missing:
        raise ModelError(f"{what} lacks {_some(missing)}", remedy)
    extra = sorted(set(state_dict) - set(shapes) - {DECODER})
    if extra:
        raise ModelError(f"{what} has tensors this model does not know: {_some(extra)}", remedy)
    for name, shape in shapes.items():
        if tuple(state_dict[name].shape) != shape:
            raise ModelError(f"{what}: {name} is {tuple(state_dict[name].shape)}, the config says {shape}", remedy)
        if not state_dict[name].is_meta and not bool(torch.isfinite(state_dict[name]).all()):
            raise ModelError(f"{what}: {name} holds NaN or infinite values", "use weights from before the run diverged")
    if DECODER in state_dict and not torch.equal(state_dict[DECODER], state_dict[EMBEDDING]):
        raise ModelError(
            f"{what}: {DECODER} differs from {EMBEDDING}, padless models tie them",
            "use a checkpoint with tied embeddings (tie_word_embeddings: true)",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
