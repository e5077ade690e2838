"""What tiling did, as a table for people: one line a kind of tensor, layers that went the same way together."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table

from padless.errors import ModelError

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class TiledTensor:
    """One line of the report: where a tensor of the target came from."""

    name: str
    how: str  # copied, tiled or tied; with what stayed random: "tiled, new vocabulary rows random"
    source_name: str
    shape: tuple[int, ...]
    input_multiplicity: tuple[int, int]  # least and most often that a feature it reads is repeated; (1, 1) if none is
    is_divided: bool  # values were divided by that multiplicity
    random_share: float = 0.0  # of its values, those that kept their random initial ones


def check_covered(rows: Sequence[TiledTensor], names: Iterable[str]) -> None:
    """Refuse a growth that leaves a tensor of the target as it was drawn.

    Args:
        rows: what was tiled.
        names: of all tensors of the target.

    Raises:
        ModelError: a tensor is in no row, or nothing of it comes from the source.
    """
    filled = {row.name for row in rows if row.random_share < 1}
    left = sorted(set(names) - filled)
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise ModelError(
            f"nothing of the source reaches {shown}: it would stay random",
            "this is a model padless cannot tile; start it random (init=random)",
        )


def tiling_table(rows: Sequence[TiledTensor]) -> str:
    """Return the report of :func:`padless.model.tiling.tile_state_dict` as text.

    Columns: the tensor (layers that went the same way are joined, ``model.layers.{0-3,5}.mlp.Wi.weight``), how it was
    filled, the share of its values that stayed random, how often the features it reads are repeated, and whether its
    values were divided by that.
    """
    table = Table(
        "tensor", "how", "random", "inputs repeated", "divided", box=None, header_style="bold", pad_edge=False
    )
    groups: dict[tuple[str, str, float, tuple[int, int], bool], list[int]] = {}
    for row in rows:
        match = _LAYER.fullmatch(row.name)
        kind = f"model.layers.{{}}.{match[2]}" if match else row.name
        how = row.how
        if match and row.name.endswith("attn_norm.weight") and not row.source_name.endswith("attn_norm.weight"):
            how = f"{how} from {row.source_name}"
        layers = groups.setdefault((kind, how, row.random_share, row.input_multiplicity, row.is_divided), [])
        if match:
            layers.append(int(match[1]))
    for (kind, how, random_share, (least, most), is_divided), layers in groups.items():
        name = kind.replace("{}", "{" + _ranges(layers) + "}") if layers else kind
        repeated = str(least) if least == most else f"{least} to {most}"
        table.add_row(name, how, f"{100 * random_share:.3g} %", repeated, "yes" if is_divided else "no")
    text = io.StringIO()
    Console(file=text, width=140, force_terminal=False).print(table)
    return text.getvalue()


def _ranges(numbers: Sequence[int]) -> str:
    """Return ``0-3,5`` for 0, 1, 2, 3, 5."""
    parts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(parts)
