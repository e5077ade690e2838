"""The front, where the published shapes stand on it, and what that says."""

import re
from operator import le

import pytest

from padless.design.report import near_front, standing_lines
from padless.design.search import geometric_mean, pareto_front, search, workloads_of
from padless.design.shapes import Grid, shape_name
from padless.errors import ConfigError
from padless.plan.devices import GPUS

BASKET = [GPUS[name] for name in ("t4", "l4", "a10", "rtx3090", "rtx4090", "a100", "h100")]
WORKLOADS = workloads_of(8192, 512, 65_536)


def find(parameters, has_tile_rule=True, basket=BASKET, hidden=None):
    return search(Grid(4, 40, 1.0, 4.0, has_tile_rule, hidden, 50_368), parameters, 0.02, basket, WORKLOADS)


@pytest.mark.parametrize("has_tile_rule", [True, False])
@pytest.mark.parametrize("basket", [BASKET, BASKET[:5]])
@pytest.mark.parametrize(("parameters", "shape"), [(149_000_000, "22x768x1152"), (395_000_000, "28x1024x2624")])
def test_published_shapes_are_within_5_percent_of_the_front_at_their_depth(parameters, shape, basket, has_tile_rule):
    found = find(parameters, has_tile_rule, basket)
    [standing] = found.standings
    assert shape_name(standing.candidate.model) == shape
    assert 0 <= standing.behind_front <= 0.05
    assert standing.behind_width == 0, "no shape of its hidden size is as deep and faster"


@pytest.mark.parametrize("parameters", [149_000_000, 395_000_000])
def test_published_shapes_are_far_from_the_fastest_of_any_depth(parameters):
    """A wide shape has more of its parameters in embeddings, which cost no time, and fewer layers."""
    [standing] = find(parameters).standings
    assert standing.behind_fastest > 0.5
    assert standing.fastest.model.num_layers == 4
    assert standing.fastest.model.hidden_size > standing.candidate.model.hidden_size


@pytest.mark.parametrize("has_tile_rule", [True, False])
def test_most_shapes_are_within_5_percent_of_the_front_at_their_depth(has_tile_rule):
    """So that a published shape is says little; the command prints this share beside it."""
    found = find(149_000_000, has_tile_rule)
    assert near_front(found) / len(found.candidates) > 0.85


def test_none_that_is_as_deep_outruns_a_shape_of_the_front():
    found = find(149_000_000, has_tile_rule=False)
    depths = [each.model.num_layers for each in found.front]
    assert depths == sorted(set(depths))
    assert [each.mean_s for each in found.front] == sorted(each.mean_s for each in found.front)
    for each in found.candidates:
        faster = [other for other in found.front if other.model.num_layers >= each.model.num_layers]
        assert not faster or min(other.mean_s for other in faster) <= each.mean_s
    assert pareto_front(found.front) == found.front


@pytest.mark.parametrize("has_tile_rule", [True, False])
def test_the_front_with_memory_holds_the_other_one_and_all_that_need_less(has_tile_rule):
    found = find(149_000_000, has_tile_rule)
    aims = {id(each): (-each.model.num_layers, each.mean_s, each.most_bytes) for each in found.candidates}
    on_front = {id(each) for each in found.memory_front}
    assert on_front > {id(each) for each in found.front}
    for each in found.candidates:
        better = [one for one in aims.values() if one != aims[id(each)] and all(map(le, one, aims[id(each)]))]
        assert bool(better) == (id(each) not in on_front)
    assert any(each is found.standings[0].candidate for each in found.memory_front)


def test_a_mean_is_over_all_gpus_and_workloads():
    found = find(149_000_000, hidden=768)
    first = found.candidates[0]
    assert len(first.seconds) == len(BASKET) * 4
    assert first.mean_s == pytest.approx(geometric_mean([first.mean_of(512), first.mean_of(8192)]))


def test_inputs_are_single_and_in_batches_short_and_long():
    assert [each.name for each in WORKLOADS] == ["1 x 512", "128 x 512", "1 x 8192", "8 x 8192"]
    assert [each.name for each in workloads_of(256, 512, 1024)] == ["1 x 256", "4 x 256"]
    assert [each.name for each in workloads_of(512, 512, 512)] == ["1 x 512"]


def test_a_published_shape_outside_the_rules_is_looked_at_all_the_same():
    found = search(Grid(4, 40, 1.0, 4.0, True, None, 50_368), 32_000_000, 0.05, BASKET, WORKLOADS)
    [standing] = found.standings
    assert standing.candidate.published == "Ettin-32m"
    assert standing.candidate.model.hidden_size == 384
    alone = search(Grid(4, 40, 1.0, 4.0, True, None, 50_368), 32_081_344, 0.0001, BASKET, WORKLOADS)
    assert [shape_name(each.model) for each in alone.candidates] == ["10x384x576"], "the grid has none so near"


def test_a_budget_without_a_shape_names_one_that_the_gpus_can_hold():
    grid = Grid(4, 40, 1.0, 4.0, True, None, 50_368)
    for parameters, tolerance in ((2 * 10**12, 0.02), (149_300_000, 1e-6)):
        with pytest.raises(ConfigError, match="no shape of 4 to 40 layers has") as e:
            search(grid, parameters, tolerance, BASKET, WORKLOADS)
        named = re.match(r"parameters=([\d_]+) is the nearest that works \((\S+)\)", e.value.remedy)
        assert named is not None
        found = search(grid, int(named[1]), tolerance, BASKET, WORKLOADS)
        assert named[2] in [shape_name(each.model) for each in found.candidates]


def test_a_budget_that_fits_no_gpu_names_the_gpu_and_what_it_has():
    grid = Grid(30, 40, 1.0, 4.0, True, None, 50_368)
    with pytest.raises(ConfigError, match=r"no shape of .* parameters fits t4: \S+ needs 2\d\.\d of its 16 GB") as e:
        search(grid, 10_000_000_000, 0.05, BASKET, WORKLOADS)
    assert "leave t4 out of basket=" in e.value.remedy
    named = re.search(r"parameters=([\d_]+) \((\S+)\) fits", e.value.remedy)
    assert named is not None
    found = search(grid, int(named[1]), 0.001, BASKET, WORKLOADS)
    assert named[2] in [shape_name(each.model) for each in found.candidates]
    with pytest.raises(ConfigError):
        search(grid, round(1.02 * int(named[1])), 0.001, BASKET, WORKLOADS)


def test_where_no_budget_fits_none_is_named():
    with pytest.raises(ConfigError, match="fits t4") as e:
        search(Grid(4, 40, 1.0, 4.0, True, 768, 50_368), 149_000_000, 0.02, BASKET, workloads_of(8192, 512, 8_388_608))
    assert e.value.remedy.startswith("leave t4 out of basket=")


def test_shapes_that_a_gpu_cannot_hold_are_left_out_by_name():
    workloads = workloads_of(8192, 512, 2_097_152)
    found = search(Grid(4, 40, 1.0, 4.0, False, None, 50_368), 149_000_000, 0.02, [GPUS["t4"]], workloads)
    assert found.candidates
    assert found.too_large
    assert max(each.most_bytes for each in found.candidates) <= 16e9
    kept = {shape_name(each.model) for each in found.candidates}
    left_out = set(map(shape_name, found.too_large))
    assert not kept & left_out
    (line,) = [line for line in standing_lines(found) if "left out, too large" in line]
    assert line.endswith(f"{shape_name(found.too_large[3])} and {len(found.too_large) - 4} more")
    assert sum(name in line for name in left_out) == 4


def test_memory_is_that_of_each_input():
    first = find(149_000_000).candidates[0]
    assert list(first.memory_bytes) == [each.name for each in WORKLOADS]
    assert first.memory_bytes["1 x 512"] < first.memory_bytes["1 x 8192"] < first.memory_bytes["8 x 8192"]
    assert first.most_bytes == first.memory_bytes["128 x 512"] == first.memory_bytes["8 x 8192"]
