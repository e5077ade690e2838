"""Tile-based initialisation: a larger model that starts from the weights of a smaller trained one.

Every axis is tiled (:mod:`padless.model.axis_tiling`) in the unit it is made of: single features, whole attention heads
(so that no rotary pair is cut), Q, K and V apart, the two GeGLU halves apart. Layers follow
:mod:`padless.model.layer_map`. Equal sizes give the source back unchanged.

``scale="published"`` copies values as they are, so whoever reads a feature that now exists m times sums it m times.
``scale="fan_in"`` divides each input column by the multiplicity m of the feature it reads (Net2Net, Chen et al. 2016).
The decoder cannot be divided, its matrix is the embedding; the division goes into the gain of the head's norm before
it. What is left is that LayerNorm takes its mean and variance over unevenly repeated features: with equal
multiplicities (an integer growth of the width) nothing, and the function is kept up to rounding; else a small error.
:func:`padless.model.growth.function_changes` says when.

A target layer other than 0 that starts from source layer 0 needs a norm that layer does not have; its attention read
the normed embeddings, so the gain of the embedding norm takes the place.

Layers that repeat may begin silent: attn.Wo and mlp.Wo are 0, so they add nothing to the residual until these have
learned something. Without that a deeper model is not the source's function.

Copies of a head, neuron or feature can be exchanged without changing the loss, so they get equal gradients for ever and
an elementwise optimizer keeps them equal but for rounding. :class:`SymmetryNoise` breaks that.

Legend: D model width, V vocabulary, N target size of an axis. Everything here is CPU work on plain dicts.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from padless.errors import ModelError
from padless.model.axis_tiling import AxisTiling
from padless.model.growth import Axes, Growth
from padless.model.tensor_shapes import DECODER, EMBEDDING, EMBEDDING_NORM, check_state_dict, tensor_shapes
from padless.model.tiling_report import TiledTensor, check_covered

MOMENTS = ("exp_avg", "exp_avg_sq")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_OUTPUTS = ("attn.Wo.weight", "mlp.Wo.weight")


@dataclass(frozen=True)
class SymmetryNoise:
    """Normal noise on further copies in every matrix, as a share of the matrix's own standard deviation."""

    std_share: float
    seed: int


@dataclass(frozen=True)
class _Rule:
    """How one kind of tensor is tiled.

    Attributes:
        rows: of a matrix, or of a vector of the vocabulary's size.
        columns: of a matrix, or of a vector of features.
        reads: the features whose repetition it has to undo.
        gradient: the units whose repetition divides its gradient under ``fan_in``, and along which axis they lie.
    """

    rows: AxisTiling | None
    columns: AxisTiling | None
    reads: AxisTiling | None
    gradient: AxisTiling | None


def tile_state_dict(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    growth: Growth,
    noise: SymmetryNoise | None = None,
) -> tuple[dict[str, Tensor], list[TiledTensor]]:
    """Return the target's weights tiled from the source's, and a report with one row a tensor.

    Args:
        source: trained weights, Hugging Face names, on the CPU.
        target: the target's randomly initialised weights. Kept only where the source has nothing: vocabulary rows
            beyond the source's, and the edges of ``mode="centre"``.
        growth: how sizes and layers map (:func:`padless.model.growth.plan_growth`).
        noise: breaks the symmetry of copies; None leaves them equal.

    Raises:
        ModelError: weights that do not fit their config, a tensor that no rule covers, or noise without a copy.
    """
    check_state_dict(source, growth.source, "the tiling source")
    check_state_dict(target, growth.target, "the tiling target")
    if noise is not None and not growth.has_copies:
        raise ModelError(
            f"init.symmetry_noise_std={noise.std_share:g} has no effect: no head, neuron or feature is duplicated",
            "remove it, or widen the model",
        )
    tiled: dict[str, Tensor] = {}
    rows: list[TiledTensor] = []
    for name in tensor_shapes(growth.target):
        source_name = source_name_of(name, growth.layer_map)
        rule = _rule_for(name, growth.axes)
        value, row = _tile_tensor(name, source_name, source[source_name], target[name], rule, growth)
        if is_silent(name, growth):
            value, row = torch.zeros_like(value), replace(row, how="zero (silent)", random_share=0.0)
        elif noise is not None:
            value = _with_noise(name, value, rule, noise)
        tiled[name] = value
        rows.append(row)
    if DECODER in target:
        tiled[DECODER] = tiled[EMBEDDING]
        rows.append(TiledTensor(DECODER, "tied", EMBEDDING, tuple(tiled[EMBEDDING].shape), (1, 1), False))
    check_covered(rows, target)
    return tiled, rows


def tile_moments(saved: Mapping[str, Mapping[str, Any]], growth: Growth) -> dict[str, dict[str, Any]]:
    """Return the optimizer's state of the larger model: the source's moments, tiled as its gradients would be.

    Under ``fan_in`` whoever reads a unit that exists m times has its weight divided by m, so the gradient that reaches
    each copy is 1/m of the source's: the first moment is divided by m, the second by m squared, m being the
    multiplicity of what a matrix puts out. With an integer growth of the width alone that is exact; else, and where
    layers repeat, as near as it gets. The gain of the head's norm has been divided itself, which makes up for it: its
    gradient is the source's. ``published`` does not divide, so moments are not divided either. What is random, a norm
    that stands in for another, and silent layers have no history: zeros. Step counters stay.

    Args:
        saved: ``moments`` by parameter name and ``group_steps``, as a checkpoint of the source has them.
        growth: how sizes and layers map.

    Raises:
        ModelError: moments that are missing or not of the source's shapes.
    """
    moments = saved["moments"]
    _check_moments(moments, growth)
    tiled: dict[str, dict[str, Tensor]] = {}
    for name, shape in tensor_shapes(growth.target).items():
        source_name, rule = source_name_of(name, growth.layer_map), _rule_for(name, growth.axes)
        match = _LAYER.fullmatch(name)
        is_stand_in = source_name == EMBEDDING_NORM != name
        has_no_history = is_stand_in or (match is not None and int(match[1]) in growth.silent_layers)
        tiled[name] = {}
        for power, key in enumerate(MOMENTS, start=1):
            source = moments[source_name][key]
            base = torch.zeros(shape, dtype=source.dtype, device=source.device)
            value = base if has_no_history else _take(source, base, rule)
            if growth.scale == "fan_in" and rule.gradient is not None:
                value = value / _along(rule.gradient.multiplicity_N**power, value, is_rows=rule.rows is rule.gradient)
            tiled[name][key] = value
    return {"moments": tiled, "group_steps": {key: _copy(step) for key, step in saved["group_steps"].items()}}


def is_silent(name: str, growth: Growth) -> bool:
    """Return whether a tensor of the target begins at 0: the output projections of silent layers."""
    match = _LAYER.fullmatch(name)
    return match is not None and int(match[1]) in growth.silent_layers and match[2] in _OUTPUTS


def source_name_of(name: str, layer_map: tuple[int, ...]) -> str:
    """Return the tensor of the source that a tensor of the target starts from."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    source_layer, rest = layer_map[int(match[1])], match[2]
    if source_layer == 0 and rest == "attn_norm.weight":
        return EMBEDDING_NORM
    return f"model.layers.{source_layer}.{rest}"


def _rule_for(name: str, axes: Axes) -> _Rule:
    match = _LAYER.fullmatch(name)
    kind = match[2] if match else name
    hidden = axes.hidden
    rules = {
        EMBEDDING: _Rule(axes.vocabulary, hidden, None, hidden),
        "attn.Wqkv.weight": _Rule(axes.qkv, hidden, hidden, axes.qkv),
        "attn.Wo.weight": _Rule(hidden, axes.head_features, axes.head_features, hidden),
        "mlp.Wi.weight": _Rule(axes.geglu, hidden, hidden, axes.geglu),
        "mlp.Wo.weight": _Rule(hidden, axes.intermediate, axes.intermediate, hidden),
        "head.dense.weight": _Rule(hidden, hidden, hidden, hidden),
        "head.norm.weight": _Rule(None, hidden, hidden, None),  # stands in for the tied decoder's columns
        "decoder.bias": _Rule(axes.vocabulary, None, None, None),
    }
    if kind in rules:
        return rules[kind]
    if kind.endswith("norm.weight"):
        return _Rule(None, hidden, None, hidden)
    raise ModelError(f"no tiling rule covers the tensor {name}", "this is a model padless cannot tile; start it random")


def _tile_tensor(
    name: str, source_name: str, source: Tensor, target: Tensor, rule: _Rule, growth: Growth
) -> tuple[Tensor, TiledTensor]:
    """Return one tensor of the target: positions taken row by row and column by column, then divided."""
    value = _take(source.to(target.dtype), target, rule)
    multiplicity, is_divided = (1, 1), False
    if rule.reads is not None:
        multiplicity = (int(rule.reads.multiplicity_N.min()), int(rule.reads.multiplicity_N.max()))
        is_divided = growth.scale == "fan_in" and multiplicity != (1, 1)
        if is_divided:
            divided = value / _along(rule.reads.multiplicity_N, value, is_rows=False)
            value = _keep_random(divided, target, rule)
    axes = [axis for axis in (rule.rows, rule.columns) if axis is not None]
    is_copied = all(bool((axis.multiplicity_N == 1).all()) for axis in axes)
    new_rows = rule.rows is growth.axes.vocabulary and growth.axes.vocabulary.has_random
    edges = any(axis.has_random for axis in axes if axis is not growth.axes.vocabulary)
    left = " and ".join(text for text, is_so in (("edges", edges), ("new vocabulary rows", new_rows)) if is_so)
    how = ("copied" if is_copied else "tiled") + (f", {left} random" if left else "")
    known = 1.0
    for axis in axes:
        known *= 1 - float(axis.is_random_N.double().mean())
    return value, TiledTensor(name, how, source_name, tuple(value.shape), multiplicity, is_divided, 1 - known)


def _take(source: Tensor, base: Tensor, rule: _Rule) -> Tensor:
    """Return the source's values at the rule's positions, and ``base``'s where it takes nothing."""
    value = source
    if rule.rows is not None and not rule.rows.is_identity:
        value = value[rule.rows.source_positions_N.clamp(min=0)]
    if rule.columns is not None and not rule.columns.is_identity:
        value = value[..., rule.columns.source_positions_N.clamp(min=0)]
    return _keep_random(value.clone() if value is source else value, base, rule)


def _keep_random(value: Tensor, base: Tensor, rule: _Rule) -> Tensor:
    for axis, is_rows in ((rule.rows, True), (rule.columns, False)):
        if axis is not None and axis.has_random:
            value = torch.where(_along(axis.is_random_N, value, is_rows), base, value)
    return value


def _with_noise(name: str, value: Tensor, rule: _Rule, noise: SymmetryNoise) -> Tensor:
    """Return a matrix with noise wherever its row or its column is a further copy; other tensors as they are."""
    if value.ndim < 2 or rule.rows is None or rule.columns is None:
        return value
    is_copy = _along(rule.rows.is_copy_N, value, True) | _along(rule.columns.is_copy_N, value, False)
    digest = hashlib.sha256(f"{noise.seed}/symmetry/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return torch.where(is_copy, value + noise.std_share * value.std() * drawn, value)


def _along(values_N: Tensor, like: Tensor, is_rows: bool) -> Tensor:
    """Return values of one axis in a shape that broadcasts over ``like``, and in its type unless they are bool."""
    cast = values_N.to(like.device, torch.bool if values_N.dtype == torch.bool else like.dtype)
    return cast[:, None] if is_rows and like.ndim == 2 else cast


def _check_moments(moments: Mapping[str, Mapping[str, Any]], growth: Growth) -> None:
    remedy = "set init.tile_moments=false, or tile from a whole padless checkpoint"
    for name, shape in tensor_shapes(growth.source).items():
        for key in MOMENTS:
            found = moments.get(name, {}).get(key)
            if not isinstance(found, Tensor):
                raise ModelError(f"init.tile_moments=true, but the source has no {key} of {name}", remedy)
            if tuple(found.shape) != shape:
                raise ModelError(f"the source's {key} of {name} is {tuple(found.shape)}, its weight {shape}", remedy)


def _copy(step: Any) -> Any:
    return step.clone() if isinstance(step, Tensor) else step
