"""Units of a model that are copies of each other: how many there are, and how far copies have come apart.

A unit is everything that belongs to one attention head (its rows of Wqkv, its columns of attn.Wo), one GeGLU neuron
(its two rows of Wi, its column of mlp.Wo) or one feature of the residual (its place in every tensor that reads or
writes it). Two equal ones can change places without a change of the loss: they add nothing to what the model can do
until they come apart.

Legend: N units of a kind, K values of a unit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from padless.config.schema import ModelConfig
from padless.model.axis_tiling import AxisTiling
from padless.model.growth import Growth
from padless.model.tensor_shapes import EMBEDDING, tensor_shapes

Kind = Literal["heads", "neurons", "features"]
KINDS: tuple[Kind, ...] = ("heads", "neurons", "features")
NAMES = {"heads": "heads", "neurons": "GeGLU neurons", "features": "residual features"}
_HASHED_AT_ONCE = 1 << 22  # values


@dataclass(frozen=True)
class _Part:
    """Where the units of a kind lie in one tensor: along ``dim``, ``parts`` times one after the other."""

    name: str
    dim: int
    parts: int


def count_copies(state: Mapping[str, Tensor], model: ModelConfig) -> dict[Kind, tuple[int, int]]:
    """Return for each kind how many units are exact copies of an earlier one, and how many units there are.

    Heads and neurons are counted within their layer, all layers together.

    Args:
        state: the weights, in fp32.
        model: their shape.
    """
    counts: dict[Kind, tuple[int, int]] = {}
    for kind in KINDS:
        copies = total = 0
        for group in _groups(kind, model):
            hashes = _hashes(state, group, _size(kind, model))
            copies += hashes.shape[0] - torch.unique(hashes).shape[0]
            total += hashes.shape[0]
        counts[kind] = (copies, total)
    return counts


def describe_copies(counts: Mapping[Kind, tuple[int, int]]) -> str:
    """Return the counts in one line."""
    shares = ", ".join(f"{copies:_} of {total:_} {NAMES[kind]}" for kind, (copies, total) in counts.items())
    return f"exact copies of an earlier unit: {shares}"


def twin_distances(state: Mapping[str, Tensor], growth: Growth) -> dict[Kind, float]:
    """Return how far the copies that a growth made have come apart, one number a kind that has some.

    The distance between each copy and the first unit taken from the same source, over the norm of the two: 0 where all
    are still equal, about 1 where they have nothing to do with each other.
    ``sqrt(sum |a - b|^2 / sum (|a|^2 + |b|^2))``.

    Args:
        state: the present weights of the grown model, on any device.
        growth: how it was grown.
    """
    axes: dict[Kind, AxisTiling] = {
        "heads": growth.axes.heads,
        "neurons": growth.axes.intermediate,
        "features": growth.axes.hidden,
    }
    distances: dict[Kind, float] = {}
    for kind, axis in axes.items():
        copies = axis.is_copy_N.nonzero().flatten()
        if copies.numel() == 0:
            continue
        apart = both = torch.zeros(())
        for group in _groups(kind, growth.target):
            for part in group:
                units_NK = _units(state[part.name], part, _size(kind, growth.target))
                a_PK = units_NK[copies.to(units_NK.device)].float()
                b_PK = units_NK[axis.first_N[copies].to(units_NK.device)].float()
                apart = apart + (a_PK - b_PK).square().sum().cpu()
                both = both + (a_PK.square().sum() + b_PK.square().sum()).cpu()
        distances[kind] = float((apart / both.clamp(min=torch.finfo(torch.float32).tiny)).sqrt())
    return distances


def _size(kind: Kind, model: ModelConfig) -> int:
    return {"heads": model.num_heads, "neurons": model.intermediate_size, "features": model.hidden_size}[kind]


def _groups(kind: Kind, model: ModelConfig) -> Iterator[list[_Part]]:
    """Yield, for each layer or once, the tensors whose slices make up a unit."""
    if kind == "features":
        yield list(_feature_parts(model))
        return
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}."
        if kind == "heads":
            yield [_Part(f"{prefix}attn.Wqkv.weight", 0, 3), _Part(f"{prefix}attn.Wo.weight", 1, 1)]
        else:
            yield [_Part(f"{prefix}mlp.Wi.weight", 0, 2), _Part(f"{prefix}mlp.Wo.weight", 1, 1)]


def _feature_parts(model: ModelConfig) -> Iterator[_Part]:
    for name in tensor_shapes(model):
        if name.endswith(("attn.Wo.weight", "mlp.Wo.weight")):
            yield _Part(name, 0, 1)
        elif name.endswith(("attn.Wqkv.weight", "mlp.Wi.weight")) or name == EMBEDDING:
            yield _Part(name, 1, 1)
        elif name == "head.dense.weight":
            yield from (_Part(name, 0, 1), _Part(name, 1, 1))
        elif name.endswith("norm.weight"):
            yield _Part(name, 0, 1)


def _units(tensor: Tensor, part: _Part, size: int) -> Tensor:
    """Return the slices of a tensor, one row a unit [N, K]."""
    width = tensor.shape[part.dim] // (part.parts * size)
    split = tensor.movedim(part.dim, 0).reshape(part.parts, size, width, -1)
    return split.movedim(1, 0).reshape(size, -1)


def _hashes(state: Mapping[str, Tensor], group: list[_Part], size: int) -> Tensor:
    """Return a number for each unit, equal where all bits are: sums of integers, which no order of adding changes."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(size, dtype=torch.int64)
    for part in group:
        units_NK = _units(state[part.name].detach().cpu().float(), part, size)
        step = max(1, _HASHED_AT_ONCE // size)
        for begin in range(0, units_NK.shape[1], step):
            bits_NK = units_NK[:, begin : begin + step].contiguous().view(torch.int32).to(torch.int64)
            factors_K = torch.randint(1, 1 << 62, (bits_NK.shape[1],), generator=generator)
            total += (bits_NK * factors_K).sum(dim=1)
    return total
