"""Random initial weights: ``full_megatron``, with the standard deviations of Hugging Face's ModernBERT.

Each tensor is drawn on the CPU from a generator of its own, seeded by (seed, name): the values depend neither on the
device, nor on the order of parameters, nor on which other layers exist.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from padless.config.schema import ModelConfig
from padless.model.masked_lm import MaskedLM

_OUT = (".attn.Wo.weight", ".mlp.Wo.weight", "head.dense.weight")


def initial_std(name: str, model: ModelConfig) -> float | None:
    """Return the standard deviation a matrix is drawn with, or None for norms (ones) and the decoder's bias (zeros).

    Args:
        name: of the parameter, such as ``model.layers.0.mlp.Wi.weight``.
        model: gives ``init_std`` and the number of layers L.
    """
    if name == "decoder.bias" or name.endswith("norm.weight"):
        return None
    return model.init_std / math.sqrt(2 * model.num_layers) if name.endswith(_OUT) else model.init_std


def initialise(model: MaskedLM, generator_seed: int) -> None:
    """Overwrite every parameter.

    ======================================================  ============================================
    tensor                                                  value
    ======================================================  ============================================
    ``model.embeddings.tok_embeddings``, tied ``decoder``   truncated normal, ``init_std``
    ``layers.N.attn.Wqkv``, ``layers.N.mlp.Wi``             truncated normal, ``init_std``
    ``layers.N.attn.Wo``, ``layers.N.mlp.Wo``               truncated normal, ``init_std / sqrt(2 L)``
    ``head.dense``                                          truncated normal, ``init_std / sqrt(2 L)``
    all norms                                               1
    ``decoder.bias``                                        0
    ======================================================  ============================================

    The normal is cut at ``init_cutoff_factor`` times its standard deviation to each side. Depth scaling of what adds to
    the residual: Shoeybi et al. 2019.

    Args:
        model: on any device but meta.
        generator_seed: equal seeds give equal weights, bit for bit.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = initial_std(name, model.config)
            if std is None:
                parameter.fill_(0.0 if name == "decoder.bias" else 1.0)
            else:
                parameter.copy_(_draw(name, parameter.shape, std, model.config.init_cutoff_factor, generator_seed))


def _draw(name: str, shape: torch.Size, std: float, cutoff_factor: float, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    cut = cutoff_factor * std
    drawn = torch.empty(shape, device="cpu")
    return nn.init.trunc_normal_(drawn, std=std, a=-cut, b=cut, generator=generator)
