"""The plan of a growth: how every axis of a model is tiled into that of a larger one, which layer starts from which,
and whether the larger model computes what the smaller one does.

Sizes are judged here, before a weight is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from padless.config.schema import ModelConfig
from padless.errors import ModelError
from padless.model.axis_tiling import AxisTiling, Mode, extend_axis, tile_axis
from padless.model.layer_map import as_setting, check_layer_map, first_in_order, map_layers, stack_layers

Scale = Literal["fan_in", "published"]
Repeated = Literal["copied", "silent"]


@dataclass(frozen=True)
class Axes:
    """The tilings of all axes of a growth."""

    hidden: AxisTiling  # the residual's features, and the prediction head's
    heads: AxisTiling  # attention heads
    intermediate: AxisTiling  # GeGLU neurons
    vocabulary: AxisTiling
    head_features: AxisTiling  # concatenated heads: input of attn.Wo
    qkv: AxisTiling  # the same three times: output of attn.Wqkv
    geglu: AxisTiling  # both halves: output of mlp.Wi


@dataclass(frozen=True)
class Growth:
    """How a model becomes a larger one; make it with :func:`plan_growth`."""

    source: ModelConfig
    target: ModelConfig
    scale: Scale
    mode: Mode
    layer_map: tuple[int, ...]  # source layer of each target layer
    axes: Axes
    silent_layers: tuple[int, ...] = ()  # target layers whose output projections begin at 0, so that they add nothing

    @property
    def has_copies(self) -> bool:
        """Whether heads, neurons or features exist more than once (whole layers that repeat do not count)."""
        axes = (self.axes.hidden, self.axes.heads, self.axes.intermediate)
        return any(bool((axis.multiplicity_N > 1).any()) for axis in axes)


def plan_growth(
    source: ModelConfig,
    target: ModelConfig,
    scale: Scale = "fan_in",
    mode: Mode = "wrap",
    layer_map: Sequence[int] | None = None,
    may_cross_kinds: bool = False,
    repeated: Repeated = "copied",
) -> Growth:
    """Return how ``source`` grows into ``target``.

    Args:
        source: shape of the smaller model.
        target: shape of the larger one, nowhere smaller.
        scale: ``"fan_in"`` divides inputs by their multiplicity, ``"published"`` does not.
        mode: how an axis is filled beyond the source's size.
        layer_map: source layer of each target layer; None takes :func:`padless.model.layer_map.map_layers`'s, or
            :func:`padless.model.layer_map.stack_layers`'s where repeated layers are silent.
        may_cross_kinds: local and global layers have one theta, so that an own map may cross them.
        repeated: what layers that start from a source layer another one stands for do at first: what it does, or
            nothing.

    Raises:
        ModelError: a source that is larger somewhere, heads of another width or that do not divide the hidden size, a
            kind of layer the source lacks, a map that does not fit, or one that cannot be silent.
    """
    _refuse_larger_source(source, target)
    head_width = _head_width(source, target)
    default_map = map_layers(
        source.num_layers, target.num_layers, source.global_every_layers, target.global_every_layers
    )
    if repeated == "silent":
        _refuse_other_kinds(source, target)
        default_map = stack_layers(source.num_layers, target.num_layers, source.global_every_layers)
    if layer_map is not None:
        check_layer_map(
            layer_map,
            default_map,
            source.num_layers,
            source.global_every_layers,
            target.global_every_layers,
            may_cross_kinds,
        )
    heads = tile_axis(source.num_heads, target.num_heads, mode)
    head_features = heads.repeat_units(head_width)
    intermediate = tile_axis(source.intermediate_size, target.intermediate_size, mode)
    axes = Axes(
        hidden=tile_axis(source.hidden_size, target.hidden_size, mode),
        heads=heads,
        intermediate=intermediate,
        vocabulary=extend_axis(source.vocab_size, target.vocab_size),
        head_features=head_features,
        qkv=head_features.stack_parts(3, source.hidden_size),
        geglu=intermediate.stack_parts(2, source.intermediate_size),
    )
    chosen = tuple(default_map if layer_map is None else layer_map)
    silent = _silent_layers(chosen, default_map, source.num_layers) if repeated == "silent" else ()
    return Growth(source, target, scale, mode, chosen, axes, silent)


def function_changes(growth: Growth) -> list[str]:
    """Return why the grown model's logits differ from the source's; empty where they are equal up to rounding.

    Equal they are if the depth stays or repeated layers are silent, ``scale`` is ``fan_in``, the mode repeats
    everything (``wrap`` or ``edge``) and the hidden size is a multiple of the source's. The GeGLU width may be any. New
    vocabulary rows leave the logits of the source's tokens as they are.
    """
    source, target, axes = growth.source, growth.target, growth.axes
    width = f"hidden_size {source.hidden_size} -> {target.hidden_size}"
    neurons = f"intermediate_size {source.intermediate_size} -> {target.intermediate_size}"
    reasons = [
        f"{name} {getattr(source, name)} -> {getattr(target, name)}"
        for name in ("global_every_layers", "local_window_tokens", "norm_eps")
        if getattr(source, name) != getattr(target, name)
    ]
    if not growth.silent_layers and growth.layer_map != tuple(range(source.num_layers)):
        reasons.append(f"layers repeat or move ({source.num_layers} -> {target.num_layers})")
    if axes.hidden.has_random or axes.intermediate.has_random:
        reasons.append(f"the edges are random ({width}, {neurons})")
    elif growth.scale == "published" and growth.has_copies:
        reasons.append("scale=published sums what is repeated")
    elif not axes.hidden.divides_evenly:
        reasons.append(f"{width} is not a multiple, so that norms see features unevenly often")
    return reasons


def describe_function(reasons: Sequence[str]) -> str:
    """Return in one line whether the grown model computes what the source does, from what changes it."""
    if not reasons:
        return "function: the source's, up to rounding"
    return f"function: not exactly the source's: {'; '.join(reasons)}"


def _refuse_other_kinds(source: ModelConfig, target: ModelConfig) -> None:
    if source.global_every_layers != target.global_every_layers:
        raise ModelError(
            f"init.repeated_layers=silent keeps every source layer in its place, but global_every_layers is "
            f"{source.global_every_layers} in the source and {target.global_every_layers} in the model",
            f"set model.global_every_layers={source.global_every_layers}, or init.repeated_layers=copied",
        )


def _silent_layers(layer_map: Sequence[int], default_map: Sequence[int], source_layers: int) -> tuple[int, ...]:
    places = first_in_order(layer_map, source_layers)
    if places is None:
        raise ModelError(
            f"init.repeated_layers=silent needs the source's layers 0 to {source_layers - 1} in this order and layer 0 "
            f"first, init.layer_map={as_setting(layer_map)} has not",
            f"use e.g. init.layer_map={as_setting(default_map)}, or init.repeated_layers=copied",
        )
    silent = tuple(sorted(set(range(len(layer_map))) - set(places)))
    if not silent:
        raise ModelError(
            f"init.repeated_layers=silent has no effect: no layer repeats ({source_layers} layers in both)",
            "remove it, or give the model more layers",
        )
    return silent


def _refuse_larger_source(source: ModelConfig, target: ModelConfig) -> None:
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size")
    larger = [
        f"{name} {getattr(source, name)} > {getattr(target, name)}"
        for name in names
        if getattr(source, name) > getattr(target, name)
    ]
    if larger:
        nearest = " ".join(f"model.{name}={max(getattr(source, name), getattr(target, name))}" for name in names)
        raise ModelError(
            f"the source is too big to tile from: {', '.join(larger)}",
            f"the nearest target that can be grown from it: {nearest}; or choose a smaller source",
        )


def _head_width(source: ModelConfig, target: ModelConfig) -> int:
    for name, model in (("source", source), ("target", target)):
        if model.hidden_size % model.num_heads:
            raise ModelError(
                f"{name} hidden_size={model.hidden_size} is not a multiple of num_heads={model.num_heads}",
                "choose a number of heads that divides the hidden size",
            )
    width = source.hidden_size // source.num_heads
    if target.hidden_size // target.num_heads != width:
        below, above = (target.hidden_size // width * width, -(-target.hidden_size // width) * width)
        sizes = sorted({max(below, source.hidden_size), above})
        ways = " or ".join(f"hidden_size={size} num_heads={size // width}" for size in sizes)
        raise ModelError(
            f"heads are tiled whole: the source's are {width} wide, the target's "
            f"{target.hidden_size // target.num_heads}",
            f"use {ways}, so that heads are {width} wide again",
        )
    return width
