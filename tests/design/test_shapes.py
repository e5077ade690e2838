"""The grid keeps the published rules, is at equal parameters, and names what works where a budget has no shape."""

import re
from dataclasses import replace

import pytest

from padless.design.shapes import (
    Grid,
    divides_into_tiles,
    no_shape_of,
    published_shapes,
    shape_name,
    shape_of,
    shapes_of_budget,
    weights_of,
)
from padless.model.count import count_parameters

GRID = Grid(4, 40, 1.0, 4.0, True, None, 50_368)


def test_published_shapes_are_those_of_the_papers():
    names = {name: (shape_name(model), model.num_heads) for name, model in published_shapes().items()}
    assert names["ModernBERT-base"] == ("22x768x1152", 12)
    assert names["ModernBERT-large"] == ("28x1024x2624", 16)
    assert names["Ettin-1b"] == ("28x1792x3840", 28)
    assert [name for name in names if name.startswith("Ettin")] == ["Ettin-17m", "Ettin-32m", "Ettin-68m", "Ettin-1b"]


@pytest.mark.parametrize("has_rule", [True, False])
def test_every_shape_keeps_the_rules_and_the_budget(has_rule):
    grid = replace(GRID, has_tile_rule=has_rule)
    shapes = shapes_of_budget(grid, 149_000_000, 0.02)
    assert len(shapes) > 30
    for model in shapes:
        assert abs(count_parameters(model).total / 149e6 - 1) <= 0.02
        assert 4 <= model.num_layers <= 40
        assert model.hidden_size == 64 * model.num_heads
        assert model.intermediate_size % 64 == 0
        assert 1 <= model.intermediate_size / model.hidden_size <= 4
        if has_rule:
            weights = weights_of(model)
            assert all(divides_into_tiles(*weights[name]) for name in ("attn.Wqkv", "attn.Wo", "mlp.Wi"))


def test_a_depth_and_width_has_the_one_shape_that_is_nearest_to_the_budget():
    shapes = shapes_of_budget(GRID, 149_000_000, 0.02)
    assert len({(model.num_layers, model.hidden_size) for model in shapes}) == len(shapes)
    for model in shapes:
        own = abs(count_parameters(model).total - 149_000_000)
        for other in (model.intermediate_size - 64, model.intermediate_size + 64):
            beside = shape_of(model.num_layers, model.hidden_size, other, model.vocab_size)
            in_grid = 1 <= other / model.hidden_size <= 4
            assert not in_grid or own <= abs(count_parameters(beside).total - 149_000_000)


def test_both_published_shapes_are_of_the_grid_of_their_budget():
    assert "22x768x1152" in map(shape_name, shapes_of_budget(GRID, 149_000_000, 0.02))
    assert "28x1024x2624" in map(shape_name, shapes_of_budget(GRID, 395_000_000, 0.02))


def test_the_tile_rule_is_read_either_way_round_and_the_published_large_breaks_it_in_one_matrix():
    assert divides_into_tiles(128, 256)
    assert divides_into_tiles(256, 128)
    assert not divides_into_tiles(128, 128)
    for name, broken in (("ModernBERT-base", []), ("ModernBERT-large", ["mlp.Wo"])):
        weights = weights_of(published_shapes()[name])
        assert [part for part, weight in weights.items() if not divides_into_tiles(*weight)] == broken


def test_a_given_hidden_size_is_the_only_one():
    shapes = shapes_of_budget(replace(GRID, hidden_size=768), 149_000_000, 0.02)
    assert {model.hidden_size for model in shapes} == {768}
    assert len(shapes) > 10


@pytest.mark.parametrize(
    ("parameters", "tolerance", "shape"),
    [(1_000_000, 0.02, "4x256x256"), (149_000_000, 1e-6, None), (2 * 10**12, 0.02, "40x8192x32768")],
)
def test_a_budget_without_a_shape_names_the_nearest_that_works(parameters, tolerance, shape):
    assert shapes_of_budget(GRID, parameters, tolerance) == []
    error = no_shape_of(GRID, parameters, tolerance, lambda _: True)
    assert error.cause.startswith("no shape of 4 to 40 layers has ")
    named = re.match(r"parameters=([\d_]+) is the nearest that works \((\w+)\)", error.remedy)
    assert named is not None
    assert named[2] == (shape or named[2])
    assert named[2] in map(shape_name, shapes_of_budget(GRID, int(named[1]), 1e-9))


def test_the_nearest_that_works_has_room():
    def fits(model):
        return count_parameters(model).total < 10**9

    error = no_shape_of(GRID, 2 * 10**12, 0.02, fits)
    named = re.match(r"parameters=([\d_]+) is the nearest", error.remedy)
    assert named is not None
    assert 0.99 * 10**9 < int(named[1]) < 10**9
    assert "the nearest" not in no_shape_of(GRID, 2 * 10**12, 0.02, lambda _: False).remedy


def test_a_range_of_widths_that_holds_no_multiple_of_64_says_so():
    grid = replace(GRID, hidden_size=256, min_expansion=1.1, max_expansion=1.2)
    assert shapes_of_budget(grid, 149_000_000, 0.02) == []
    assert "widen expansion=" in no_shape_of(grid, 149_000_000, 0.02, lambda _: True).remedy
