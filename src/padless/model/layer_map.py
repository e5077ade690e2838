"""Which source layer each layer of a deeper model starts from.

Local layers start from local layers and global ones from global ones: their RoPE theta and their reach differ, so that
weights of the other kind would be wrong and not only suboptimal. Within a kind the order is kept (the map never goes
back), every source layer is used, and the repeats are spread evenly: target ``j`` of ``N`` takes source
``floor((j + 1/2) n / N)`` of ``n``, which cannot run past the end at any growth and takes the first from the first.

Where layers that repeat are to be silent (:mod:`padless.model.growth`), the source's layers have to come in their
order, which spreading the two kinds apart can break (4 to 6: 0 1 1 3 2 2). Then they stay where they are, and the
repeats, of the last layers of their kind, come on top.

A map of one's own may leave layers out or go back. It may cross the kinds only where both have one theta.
"""

from collections.abc import Sequence

from padless.errors import ModelError


def map_layers(source_layers: int, target_layers: int, source_every: int, target_every: int) -> tuple[int, ...]:
    """Return for each target layer the index of the source layer it starts from.

    Args:
        source_layers: number of layers of the source.
        target_layers: number of layers of the target, at least as many.
        source_every: source layer ``i`` is global if ``i % source_every == 0``.
        target_every: the same for the target.

    Raises:
        ModelError: fewer layers than the source, or a kind of layer the source does not have.
    """
    if target_layers < source_layers:
        raise ModelError(
            f"tiling cannot shrink a model: the source has {source_layers} layers, the target {target_layers}",
            f"give the target at least {source_layers} layers, or choose a smaller source",
        )
    source_kinds = [_is_global(layer, source_every) for layer in range(source_layers)]
    target_kinds = [_is_global(layer, target_every) for layer in range(target_layers)]
    layer_map = [0] * target_layers
    for is_global in (True, False):
        sources = [layer for layer, kind in enumerate(source_kinds) if kind is is_global]
        targets = [layer for layer, kind in enumerate(target_kinds) if kind is is_global]
        if targets and not sources:
            raise ModelError(
                f"the source has no {_kind_name(is_global)} layer, the target has {len(targets)}",
                "choose a source with both kinds of layers, or the source's own global_every_layers for the target",
            )
        for position, target in enumerate(targets):
            layer_map[target] = sources[(2 * position + 1) * len(sources) // (2 * len(targets))]
    return tuple(layer_map)


def stack_layers(source_layers: int, target_layers: int, every: int) -> tuple[int, ...]:
    """Return the map that keeps the source's layers in place and repeats the last ones of each kind on top of them.

    Args:
        source_layers: number of layers of the source.
        target_layers: number of layers of the target, at least as many.
        every: layer ``i`` is global if ``i % every == 0``, in both.
    """
    layer_map = {layer: layer for layer in range(source_layers)}
    for is_global in (True, False):
        sources = [layer for layer in range(source_layers) if _is_global(layer, every) is is_global]
        targets = [layer for layer in range(source_layers, target_layers) if _is_global(layer, every) is is_global]
        last = sources[-len(targets) :]
        for position, target in enumerate(targets):
            layer_map[target] = last[position * len(last) // len(targets)]
    return tuple(layer_map[layer] for layer in range(target_layers))


def first_in_order(layer_map: Sequence[int], source_layers: int) -> tuple[int, ...] | None:
    """Return the target layers that, alone, are the source's layers one after the other, the first of both being one.

    None if there are none such.
    """
    if layer_map[0] != 0:  # layer 0 alone has no norm before its attention
        return None
    places: list[int] = []
    for layer, source in enumerate(layer_map):
        if source == len(places):
            places.append(layer)
    return tuple(places) if len(places) == source_layers else None


def check_layer_map(
    layer_map: Sequence[int], default_map: Sequence[int], source_layers: int, source_every: int, target_every: int,
    may_cross_kinds: bool,
) -> None:  # fmt: skip
    """Refuse a map of the user's own that no model can be grown by.

    Args:
        layer_map: source layer of each target layer.
        default_map: what :func:`map_layers` gives, which errors name.
        source_layers: number of layers of the source.
        source_every: source layer ``i`` is global if ``i % source_every == 0``.
        target_every: the same for the target.
        may_cross_kinds: local and global layers have one theta, so that weights of the other kind still fit.

    Raises:
        ModelError: another length than the target's depth, a layer the source lacks, or one of the other kind.
    """
    if len(layer_map) != len(default_map):
        raise ModelError(
            f"init.layer_map has {len(layer_map)} entries, the model {len(default_map)} layers",
            f"give one source layer for each, e.g. {as_setting(default_map)}",
        )
    for layer, source in enumerate(layer_map):
        if not 0 <= source < source_layers:
            raise ModelError(
                f"init.layer_map: layer {layer} would start from layer {source}, the source has 0 to "
                f"{source_layers - 1}",
                f"for layer {layer} e.g. {default_map[layer]}; the whole map: {as_setting(default_map)}",
            )
    for layer, source in enumerate(layer_map):
        wanted, found = _is_global(layer, target_every), _is_global(source, source_every)
        if wanted is not found and not may_cross_kinds:
            same_kind = [each for each in range(source_layers) if _is_global(each, source_every) is wanted]
            nearest = min(same_kind, key=lambda each: abs(each - source))
            raise ModelError(
                f"init.layer_map: layer {layer} is {_kind_name(wanted)}, source layer {source} is {_kind_name(found)}, "
                "and the two kinds have different RoPE thetas",
                f"for layer {layer} use source layer {nearest}, or tile from a phase in which both have one theta",
            )


def as_setting(layer_map: Sequence[int]) -> str:
    """Return the map as a value of ``init.layer_map``: ``[0,1,2,2]``."""
    return f"[{','.join(map(str, layer_map))}]"


def describe_layer_map(layer_map: Sequence[int], target_every: int) -> str:
    """Return the map in one line: ``0g<-0 1l<-1 ...``, g for global and l for local layers."""
    kinds = ("g" if _is_global(layer, target_every) else "l" for layer in range(len(layer_map)))
    return " ".join(f"{layer}{kind}<-{layer_map[layer]}" for layer, kind in enumerate(kinds))


def _is_global(layer: int, every: int) -> bool:
    return layer % every == 0


def _kind_name(is_global: bool) -> str:
    return "global" if is_global else "local"
