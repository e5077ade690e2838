"""Which shapes a search looks at: the grid of a parameter budget, and the published shapes beside it.

Rules, from appendix B of the ModernBERT paper (Warner et al. 2024, after Anthony et al. 2024) and the authors' account
of their search (the ModernBERT announcement, "Paying Attention to Hardware"): dimensions of weights divide by 64, heads
are 64 wide, layer counts and widths vary under a budget. For one depth and width the GeGLU width is the one whose count
is nearest to the budget, so that shapes are compared at equal parameters and none wins by having fewer.

*The tile rule.* A weight matrix shall divide into blocks of 128 x 256. For Wqkv, the attention's Wo and Wi that means a
hidden size that is a multiple of 256. The feed-forward's Wo is left out of the rule: the published large (1024 x 2624)
does not keep it there. Without the rule every multiple of 64 is looked at, and the prediction alone counts the waste.
"""

import bisect
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import yaml

from padless.config.compose import YAML_FOLDER
from padless.config.schema import ModelConfig
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.units import approximate_tokens

STEP = 64  # of every dimension: the tensor cores' requirement
HEAD_WIDTH = 64
TILE = (128, 256)
_MAX_HIDDEN = 8192
_PUBLISHED = {  # name: its file in yamls/model
    "Ettin-17m": "17m",
    "Ettin-32m": "32m",
    "Ettin-68m": "68m",
    "ModernBERT-base": "base",
    "ModernBERT-large": "large",
    "Ettin-1b": "1b",
}


@dataclass(frozen=True)
class Grid:
    """What a search may choose from."""

    min_layers: int
    max_layers: int
    min_expansion: float  # GeGLU width as a multiple of the hidden size
    max_expansion: float
    has_tile_rule: bool
    hidden_size: int | None  # None: any
    vocab_size: int

    def hidden_sizes(self) -> range | tuple[int, ...]:
        """Return the hidden sizes that keep the rules, ascending."""
        if self.hidden_size is not None:
            return (self.hidden_size,)
        step = TILE[1] if self.has_tile_rule else STEP
        return range(step, _MAX_HIDDEN + 1, step)

    def inner_sizes(self, hidden_size: int) -> range:
        """Return the GeGLU widths for a hidden size, ascending; may be empty."""
        least = -(-int(self.min_expansion * hidden_size) // STEP) * STEP
        return range(max(STEP, least), int(self.max_expansion * hidden_size) + 1, STEP)


@functools.cache
def published_shapes() -> dict[str, ModelConfig]:
    """Return the shapes of ModernBERT and Ettin by name, as the presets have them (Ettin's 150m and 400m are these)."""
    return {name: _preset(file) for name, file in _PUBLISHED.items()}


def _preset(name: str) -> ModelConfig:
    text = (YAML_FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    return ModelConfig(**yaml.safe_load(text))


def shape_name(model: ModelConfig) -> str:
    """Return layers x hidden x GeGLU width, such as ``22x768x1152``."""
    return f"{model.num_layers}x{model.hidden_size}x{model.intermediate_size}"


def shape_of(num_layers: int, hidden_size: int, intermediate_size: int, vocab_size: int) -> ModelConfig:
    """Return a shape with heads of 64; what is left is the published base's."""
    return replace(
        published_shapes()["ModernBERT-base"],
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=hidden_size // HEAD_WIDTH,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
    )


def divides_into_tiles(rows: int, columns: int) -> bool:
    """Return whether a matrix is whole blocks of 128 x 256, either way round."""
    short, long = TILE
    return (rows % short == 0 and columns % long == 0) or (rows % long == 0 and columns % short == 0)


def weights_of(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return rows and columns of a layer's matrices: what a token's vector becomes, and what it was."""
    width, inner = model.hidden_size, model.intermediate_size
    return {
        "attn.Wqkv": (3 * width, width),
        "attn.Wo": (width, width),
        "mlp.Wi": (2 * inner, width),
        "mlp.Wo": (width, inner),
    }


def shapes_of_budget(grid: Grid, parameters: int, tolerance: float) -> list[ModelConfig]:
    """Return for each depth and width the shape whose parameters are nearest to the budget, where one is near enough.

    Args:
        grid: what may be chosen.
        parameters: the budget; embeddings count once, head and decoder bias are in.
        tolerance: as a share of the budget.
    """
    nearest = _nearest(grid, parameters)
    return [model for model in nearest if abs(count_parameters(model).total - parameters) <= tolerance * parameters]


def no_shape_of(grid: Grid, parameters: int, tolerance: float, fits: Callable[[ModelConfig], bool]) -> ConfigError:
    """Return the error of a budget without a shape; the remedy names the nearest that has one, to the last parameter.

    Args:
        grid: what may be chosen.
        parameters: the budget.
        tolerance: as a share of it.
        fits: whether there is room for a shape; where one fits, the same with a narrower GeGLU does.
    """
    said = f"no shape of {grid.min_layers} to {grid.max_layers} layers has {approximate_tokens(parameters)} parameters"
    said += f" within {100 * tolerance:.3g} % with vocab={grid.vocab_size}"
    if not any(map(grid.inner_sizes, grid.hidden_sizes())):
        return ConfigError(said, "widen expansion=: no multiple of 64 lies in it for any hidden size")
    largest = largest_that_fits(grid, fits)
    if largest is None:
        return ConfigError(said, "give another parameters=, vocab=, layers=, expansion= or tolerance=")
    near = [*filter(fits, _nearest(grid, parameters)), largest]
    best = min(near, key=lambda model: abs(count_parameters(model).total - parameters))
    return ConfigError(
        said,
        f"parameters={count_parameters(best).total:_} is the nearest that works ({shape_name(best)}); "
        "or give another vocab=, layers=, expansion= or tolerance=",
    )


def largest_that_fits(grid: Grid, fits: Callable[[ModelConfig], bool]) -> ModelConfig | None:
    """Return the shape of the grid with the most parameters among those that fit; None if none does.

    Args:
        grid: what may be chosen.
        fits: whether there is room for a shape; where one fits, the same with a narrower GeGLU does.
    """
    best, most = None, 0
    for hidden_size in grid.hidden_sizes():
        inner_sizes = grid.inner_sizes(hidden_size)
        for num_layers in range(grid.min_layers, grid.max_layers + 1):
            shape = functools.partial(shape_of, num_layers, hidden_size, vocab_size=grid.vocab_size)
            count = bisect.bisect_left(inner_sizes, True, key=lambda inner, shape=shape: not fits(shape(inner)))
            if count and (total := count_parameters(shape(inner_sizes[count - 1])).total) > most:
                best, most = shape(inner_sizes[count - 1]), total
    return best


def _nearest(grid: Grid, parameters: int) -> Iterator[ModelConfig]:
    for hidden_size in grid.hidden_sizes():
        inner_sizes = grid.inner_sizes(hidden_size)
        if not inner_sizes:
            continue
        for num_layers in range(grid.min_layers, grid.max_layers + 1):
            least = shape_of(num_layers, hidden_size, inner_sizes[0], grid.vocab_size)
            missing = parameters - count_parameters(least).total
            steps = round(missing / (3 * num_layers * hidden_size * STEP))  # a GeGLU unit is two rows and a column
            inner = inner_sizes[min(max(steps, 0), len(inner_sizes) - 1)]
            yield replace(least, intermediate_size=inner)
