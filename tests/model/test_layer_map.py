from pathlib import Path

import pytest

from padless.errors import ModelError
from padless.model.layer_map import (
    as_setting,
    check_layer_map,
    describe_layer_map,
    first_in_order,
    map_layers,
    stack_layers,
)


@pytest.mark.parametrize(
    ("source", "target"), [(22, 28), (12, 24), (4, 6), (6, 12), (7, 14), (10, 22), (22, 44), (4, 4), (3, 31), (22, 22)]
)
def test_map_keeps_kinds_and_order_and_uses_every_layer(source, target):
    layer_map = map_layers(source, target, 3, 3)
    assert len(layer_map) == target
    assert layer_map[0] == 0
    assert set(layer_map) == set(range(source))
    for want_global in (True, False):
        mapped = [layer_map[layer] for layer in range(target) if (layer % 3 == 0) is want_global]
        assert all((layer % 3 == 0) is want_global for layer in mapped)
        assert mapped == sorted(mapped)


def test_equal_depth_is_the_identity():
    assert map_layers(22, 22, 3, 3) == tuple(range(22))


def test_known_map_of_base_to_large():
    layer_map = map_layers(22, 28, 3, 3)
    assert [layer_map[layer] for layer in range(0, 28, 3)] == [0, 3, 6, 6, 9, 12, 15, 18, 18, 21]
    locals_only = [layer_map[layer] for layer in range(28) if layer % 3]
    assert locals_only == [1, 2, 2, 4, 5, 7, 8, 8, 10, 11, 13, 13, 14, 16, 17, 19, 19, 20]


def test_map_is_described_with_kinds():
    assert describe_layer_map(map_layers(4, 6, 3, 3), 3) == "0g<-0 1l<-1 2l<-1 3g<-3 4l<-2 5l<-2"


def test_the_docs_print_the_map_that_a_run_prints():
    docs = Path(__file__).parents[2] / "docs" / "growth.md"
    assert f"layers, target<-source: {describe_layer_map(map_layers(4, 8, 3, 3), 3)}\n" in docs.read_text()


def test_fewer_layers_than_the_source_is_an_error():
    with pytest.raises(ModelError, match="source has 6 layers, the target 4"):
        map_layers(6, 4, 3, 3)


def test_a_kind_the_source_lacks_is_an_error():
    with pytest.raises(ModelError, match="source has no local layer, the target has 2"):
        map_layers(3, 4, 1, 3)


def check(layer_map, may_cross_kinds=False):
    check_layer_map(layer_map, map_layers(4, 6, 3, 3), 4, 3, 3, may_cross_kinds)


@pytest.mark.parametrize("layer_map", [(0, 1, 2, 3, 2, 2), (3, 2, 1, 0, 1, 2), (0, 1, 1, 0, 1, 1)])
def test_an_own_map_may_go_back_and_leave_layers_out_within_a_kind(layer_map):
    check(layer_map)


def test_an_own_map_of_another_length_is_refused_with_the_default_one():
    with pytest.raises(ModelError, match="has 5 entries, the model 6 layers") as caught:
        check((0, 1, 2, 3, 2))
    assert "[0,1,1,3,2,2]" in caught.value.remedy


@pytest.mark.parametrize("bad", [4, -1])
def test_a_layer_the_source_lacks_is_refused(bad):
    with pytest.raises(ModelError, match=rf"layer 4 would start from layer {bad}, the source has 0 to 3\n.*e\.g\. 2;"):
        check((0, 1, 2, 3, bad, 2))


def test_a_map_that_crosses_the_kinds_is_refused_with_the_nearest_layer_unless_both_have_one_theta():
    with pytest.raises(ModelError, match="layer 3 is global, source layer 2 is local, and the two kinds") as caught:
        check((0, 1, 2, 2, 2, 2))
    assert "for layer 3 use source layer 3, or tile from a phase in which both have one theta" in caught.value.remedy
    with pytest.raises(ModelError, match=r"layer 1 is local, source layer 0 is global(.|\n)*use source layer 1"):
        check((0, 0, 2, 3, 2, 2))
    check((0, 0, 2, 2, 2, 2), may_cross_kinds=True)


def test_a_map_is_written_as_a_setting():
    assert as_setting((0, 1, 1)) == "[0,1,1]"


@pytest.mark.parametrize(("source", "target"), [(22, 28), (4, 6), (4, 8), (4, 12), (22, 44), (3, 4), (5, 5)])
def test_a_stacked_map_keeps_layers_in_place_and_repeats_the_last_of_each_kind(source, target):
    layer_map = stack_layers(source, target, 3)
    assert layer_map[:source] == tuple(range(source))
    assert len(layer_map) == target
    assert all((layer % 3 == 0) is (from_layer % 3 == 0) for layer, from_layer in enumerate(layer_map))
    assert first_in_order(layer_map, source) == tuple(range(source))


def test_the_first_in_order_are_found_wherever_they_are():
    assert first_in_order((0, 0, 1, 0, 2, 1, 2), 3) == (0, 2, 4)
    assert first_in_order((0, 1, 1, 3, 2, 2), 4) is None
    assert first_in_order((1, 0, 1, 2), 3) is None, "the first layer has no norm before its attention"
