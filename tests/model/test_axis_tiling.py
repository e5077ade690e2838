"""One axis of a tiling: which source position each position takes, in each mode."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.errors import ModelError
from padless.model.axis_tiling import RANDOM, extend_axis, tile_axis

SIZES = {"source_size": st.integers(1, 40), "growth": st.integers(0, 90)}


@settings(max_examples=60, deadline=None)
@given(**SIZES, mode=st.sampled_from(["wrap", "centre", "edge"]))
def test_positions_are_those_of_the_mode_and_counted(source_size, growth, mode):
    target_size, offset = source_size + growth, growth // 2
    axis = tile_axis(source_size, target_size, mode)
    expected = {
        "wrap": [(i - offset) % source_size for i in range(target_size)],
        "edge": [i % source_size for i in range(target_size)],
        "centre": [i - offset if 0 <= i - offset < source_size else RANDOM for i in range(target_size)],
    }[mode]
    assert axis.source_positions_N.tolist() == expected
    assert set(range(source_size)) <= set(expected), "every source position is taken"
    counted = [1 if position == RANDOM else expected.count(position) for position in expected]
    assert axis.multiplicity_N.tolist() == counted
    assert axis.is_identity is (growth == 0)
    assert axis.has_random is (mode == "centre" and growth > 0)
    seen = set()
    for place, position in enumerate(expected):
        assert bool(axis.is_copy_N[place]) is (position in seen)
        assert position == RANDOM or expected.index(position) == int(axis.first_N[place])
        seen |= {position} - {RANDOM}


def test_copies_are_even_where_the_size_is_a_multiple():
    assert tile_axis(4, 12).divides_evenly
    assert tile_axis(4, 4).divides_evenly
    assert not tile_axis(4, 6).divides_evenly
    assert not tile_axis(4, 8, "centre").divides_evenly


def test_units_stay_whole_and_parts_apart_and_random_stays_random():
    axis = tile_axis(2, 4, "centre")
    assert axis.source_positions_N.tolist() == [RANDOM, 0, 1, RANDOM]
    heads = axis.repeat_units(3)
    assert heads.source_positions_N.tolist() == [*[RANDOM] * 3, 0, 1, 2, 3, 4, 5, *[RANDOM] * 3]
    both = axis.stack_parts(2, 2)
    assert both.source_positions_N.tolist() == [RANDOM, 0, 1, RANDOM, RANDOM, 2, 3, RANDOM]
    wrapped = tile_axis(2, 3).repeat_units(2)
    assert wrapped.source_positions_N.tolist() == [0, 1, 2, 3, 0, 1]
    assert wrapped.multiplicity_N.tolist() == [2, 2, 1, 1, 2, 2]


def test_a_vocabulary_is_extended_by_rows_that_take_nothing():
    axis = extend_axis(3, 5)
    assert axis.source_positions_N.tolist() == [0, 1, 2, RANDOM, RANDOM]
    assert torch.equal(axis.multiplicity_N, torch.ones(5, dtype=torch.float64))
    assert extend_axis(3, 3).is_identity


def test_an_axis_does_not_shrink():
    with pytest.raises(ModelError, match="an axis of 2 would become 1"):
        tile_axis(2, 1)
