"""Tile-based initialisation: a larger model that starts from the weights of a smaller trained one.

Every axis is tiled from its centre with wrap-around, ``new[i] = source[(i - o) mod n]`` with ``o = (N - n) // 2``
(ModernBERT, Warner et al. 2024, appendix A.3), in the unit the axis is made of: single features, whole attention heads
(so that no rotary pair is cut), Q, K and V apart, the two GeGLU halves apart. Layers follow
:func:`padless.model.layer_map.map_layers`. Equal sizes give the source back unchanged.

``scale="published"`` copies values as they are, so whoever reads a feature that now exists m times sums it m times.
``scale="fan_in"`` divides each input column by the multiplicity m of the feature it reads (Net2Net, Chen et al. 2016).
The decoder cannot be divided, its matrix is the embedding; the division goes into the gain of the head's norm before
it. What is left is that LayerNorm takes its mean and variance over unevenly repeated features: with equal
multiplicities (an integer growth of the width) nothing, and the function is kept up to rounding; else a small error.

A target layer other than 0 that starts from source layer 0 needs a norm that layer does not have; its attention read
the normed embeddings, so the gain of the embedding norm takes the place.

Legend: D model width, V vocabulary; n source and N target size of an axis. Everything here is CPU work on plain dicts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from padless.config.schema import ModelConfig
from padless.errors import ModelError
from padless.model.layer_map import map_layers
from padless.model.tensor_shapes import DECODER, EMBEDDING, EMBEDDING_NORM, check_state_dict, tensor_shapes
from padless.model.tiling_report import TiledTensor, tiling_table

__all__ = ["AxisTiling", "Scale", "TiledTensor", "tile_axis", "tile_state_dict", "tiling_table"]

Scale = Literal["fan_in", "published"]
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class AxisTiling:
    """Which source position each position of one axis takes, and how often that source position is taken."""

    source_positions_N: Tensor  # int64 [N]
    multiplicity_N: Tensor  # float64 [N]

    @property
    def is_identity(self) -> bool:
        """Whether the axis keeps its size (and so its order)."""
        return bool((self.multiplicity_N == 1).all())

    def repeat_units(self, unit: int) -> "AxisTiling":
        """Return the tiling of an axis whose every position is ``unit`` consecutive positions (a head's width)."""
        positions = self.source_positions_N[:, None] * unit + torch.arange(unit)
        return AxisTiling(positions.reshape(-1), self.multiplicity_N.repeat_interleave(unit))

    def stack_parts(self, parts: int, source_size: int) -> "AxisTiling":
        """Return the tiling of ``parts`` such axes one after the other (Q, K, V or the GeGLU halves), each apart."""
        positions = [self.source_positions_N + part * source_size for part in range(parts)]
        return AxisTiling(torch.cat(positions), self.multiplicity_N.repeat(parts))


def tile_axis(source_size: int, target_size: int) -> AxisTiling:
    """Return the centre tiling with wrap-around of an axis of ``source_size`` to ``target_size`` positions.

    Raises:
        ModelError: the target is smaller.
    """
    if target_size < source_size:
        raise ModelError(
            f"tiling cannot shrink a model: an axis of {source_size} would become {target_size}",
            "make every size of the target at least that of the source",
        )
    positions = (torch.arange(target_size) - (target_size - source_size) // 2) % source_size
    counts = torch.bincount(positions, minlength=source_size)
    return AxisTiling(positions, counts[positions].to(torch.float64))


@dataclass(frozen=True)
class _Axes:
    """The tilings of all axes of a growth."""

    hidden: AxisTiling
    heads: AxisTiling  # concatenated heads: input of attn.Wo
    qkv: AxisTiling
    intermediate: AxisTiling
    geglu: AxisTiling  # both halves: output of mlp.Wi


@dataclass(frozen=True)
class _Rule:
    """How one kind of tensor is tiled: its rows, its columns, and the features whose repetition it has to undo."""

    rows: AxisTiling | None
    columns: AxisTiling | None
    reads: AxisTiling | None


def tile_state_dict(
    source: Mapping[str, Tensor],
    source_model: ModelConfig,
    target: Mapping[str, Tensor],
    target_model: ModelConfig,
    scale: Scale,
) -> tuple[dict[str, Tensor], list[TiledTensor]]:
    """Return the target's weights tiled from the source's, and a report with one row a tensor.

    Args:
        source: trained weights, Hugging Face names, on the CPU.
        source_model: their shape.
        target: the target's randomly initialised weights. Kept only where the source has nothing: vocabulary rows
            beyond the source's.
        target_model: their shape, nowhere smaller than the source's.
        scale: ``"fan_in"`` divides inputs by their multiplicity, ``"published"`` does not (module docstring).

    Raises:
        ModelError: weights that do not fit their config, a smaller target, other head widths, a tensor with no rule.
    """
    check_state_dict(source, source_model, "the tiling source")
    check_state_dict(target, target_model, "the tiling target")
    axes = _build_axes(source_model, target_model)
    layer_map = map_layers(
        source_model.num_layers,
        target_model.num_layers,
        source_model.global_every_layers,
        target_model.global_every_layers,
    )
    tiled: dict[str, Tensor] = {}
    rows: list[TiledTensor] = []
    for name in tensor_shapes(target_model):
        source_name = _source_name(name, layer_map)
        tiled[name], row = _tile_tensor(name, source_name, source[source_name], target[name], axes, scale)
        rows.append(row)
    if DECODER in target:
        tiled[DECODER] = tiled[EMBEDDING]
        rows.append(TiledTensor(DECODER, "tied", EMBEDDING, tuple(tiled[EMBEDDING].shape), (1, 1), False))
    return tiled, rows


def _build_axes(source: ModelConfig, target: ModelConfig) -> _Axes:
    for name, model in (("source", source), ("target", target)):
        if model.hidden_size % model.num_heads:
            raise ModelError(
                f"{name} hidden_size={model.hidden_size} is not a multiple of num_heads={model.num_heads}",
                "choose a number of heads that divides the hidden size",
            )
    head_width = source.hidden_size // source.num_heads
    target_width = target.hidden_size // target.num_heads
    if head_width != target_width:
        raise ModelError(
            f"heads are tiled whole: the source's are {head_width} wide, the target's {target_width}",
            f"set num_heads={target.hidden_size / head_width:g}, so that hidden_size / num_heads is {head_width} again",
        )
    if target.vocab_size < source.vocab_size:
        raise ModelError(
            f"the source's vocabulary is {source.vocab_size}, the target's {target.vocab_size}: tokens would be lost",
            f"set the target's vocab_size to {source.vocab_size} or more, with the source's tokens first",
        )
    heads = tile_axis(source.num_heads, target.num_heads).repeat_units(head_width)
    intermediate = tile_axis(source.intermediate_size, target.intermediate_size)
    return _Axes(
        hidden=tile_axis(source.hidden_size, target.hidden_size),
        heads=heads,
        qkv=heads.stack_parts(3, source.hidden_size),
        intermediate=intermediate,
        geglu=intermediate.stack_parts(2, source.intermediate_size),
    )


def _source_name(name: str, layer_map: tuple[int, ...]) -> str:
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    source_layer, rest = layer_map[int(match[1])], match[2]
    if source_layer == 0 and rest == "attn_norm.weight":
        return EMBEDDING_NORM
    return f"model.layers.{source_layer}.{rest}"


def _rule_for(name: str, axes: _Axes) -> _Rule:
    match = _LAYER.fullmatch(name)
    kind = match[2] if match else name
    hidden = axes.hidden
    rules = {
        EMBEDDING: _Rule(None, hidden, None),
        "attn.Wqkv.weight": _Rule(axes.qkv, hidden, hidden),
        "attn.Wo.weight": _Rule(hidden, axes.heads, axes.heads),
        "mlp.Wi.weight": _Rule(axes.geglu, hidden, hidden),
        "mlp.Wo.weight": _Rule(hidden, axes.intermediate, axes.intermediate),
        "head.dense.weight": _Rule(hidden, hidden, hidden),
        "head.norm.weight": _Rule(None, hidden, hidden),  # stands in for the tied decoder's columns
        "decoder.bias": _Rule(None, None, None),
    }
    if kind in rules:
        return rules[kind]
    if kind.endswith("norm.weight"):
        return _Rule(None, hidden, None)
    raise ModelError(f"no tiling rule covers the tensor {name}", "this is a model padless cannot tile; start it random")


def _tile_tensor(
    name: str, source_name: str, source: Tensor, target: Tensor, axes: _Axes, scale: Scale
) -> tuple[Tensor, TiledTensor]:
    """Return one tensor of the target: positions taken row by row and column by column, then divided."""
    rule = _rule_for(name, axes)
    value = source.to(torch.float64)
    if rule.rows is not None:
        value = value[rule.rows.source_positions_N]
    if rule.columns is not None:
        value = value[..., rule.columns.source_positions_N]
    multiplicity, is_divided = (1, 1), False
    if rule.reads is not None:
        multiplicity = (int(rule.reads.multiplicity_N.min()), int(rule.reads.multiplicity_N.max()))
        is_divided = scale == "fan_in" and multiplicity != (1, 1)
        if is_divided:
            value = value / rule.reads.multiplicity_N
    is_copy = all(axis is None or axis.is_identity for axis in (rule.rows, rule.columns))
    how = "copied" if is_copy else "tiled"
    value = value.to(target.dtype)
    if name in (EMBEDDING, "decoder.bias") and target.shape[0] > source.shape[0]:
        value = torch.cat([value, target[source.shape[0] :]])
        how = "copied, new vocabulary rows random" if is_copy else "tiled, new vocabulary rows random"
    return value, TiledTensor(name, how, source_name, tuple(value.shape), multiplicity, is_divided)
