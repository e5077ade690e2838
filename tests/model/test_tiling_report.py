"""What is said about a growth, and the refusal of one that leaves a tensor out."""

import pytest

from padless.errors import ModelError
from padless.model.tiling_report import TiledTensor, check_covered, tiling_table


def row(name, random_share=0.0, how="tiled"):
    return TiledTensor(name, how, name, (4, 4), (1, 2), True, random_share)


def test_a_tensor_that_nothing_of_the_source_reaches_is_refused_by_name():
    rows = [row("a"), row("b", random_share=1.0), row("c", random_share=0.75)]
    check_covered([rows[0], rows[2]], ["a", "c"])
    with pytest.raises(ModelError, match="nothing of the source reaches b, d: it would stay random"):
        check_covered(rows, ["a", "b", "c", "d"])
    with pytest.raises(ModelError, match="reaches t0, t1, t2 and 2 more"):
        check_covered([], [f"t{number}" for number in range(5)])


def test_layers_that_went_the_same_way_are_one_line_with_the_random_share():
    rows = [row(f"model.layers.{layer}.mlp.Wo.weight", 0.25 if layer == 2 else 0.0) for layer in range(4)]
    lines = [line.split() for line in tiling_table(rows).splitlines()[1:] if line.strip()]
    assert [(line[0], *line[2:4]) for line in lines] == [
        ("model.layers.{0-1,3}.mlp.Wo.weight", "0", "%"),
        ("model.layers.{2}.mlp.Wo.weight", "25", "%"),
    ]
