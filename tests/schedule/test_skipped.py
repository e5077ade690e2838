"""Blocks left out: position and steps against a slow list that really leaves them out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.schedule.skipped import SkippedRange, merged, position_in_data, positions_of_step

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6)


def ranges_of(pairs):
    return [SkippedRange("short", first, count) for first, count in pairs]


def order_without(pairs, length=400):
    gone = {block for first, count in pairs for block in range(first, first + count)}
    return [block for block in range(length) if block not in gone]


@given(RANGES, st.integers(0, 100))
def test_the_position_is_that_of_the_next_block_left(pairs, consumed):
    assert position_in_data(consumed, ranges_of(pairs)) == order_without(pairs)[consumed]


@given(RANGES, st.integers(0, 100), st.integers(1, 40))
def test_a_step_is_made_of_the_blocks_that_are_left(pairs, consumed, batch):
    stretches = positions_of_step(consumed, batch, ranges_of(pairs))
    blocks = [block for first, count in stretches for block in range(first, first + count)]
    assert blocks == order_without(pairs)[consumed : consumed + batch]


def test_touching_ranges_are_one_and_phases_stay_apart():
    ranges = [SkippedRange("b", 4, 4), SkippedRange("a", 8, 4), SkippedRange("a", 4, 4), SkippedRange("a", 20, 2)]
    assert merged(ranges) == [SkippedRange("a", 4, 8), SkippedRange("a", 20, 2), SkippedRange("b", 4, 4)]


@pytest.mark.parametrize(("consumed", "position"), [(0, 0), (3, 3), (4, 6), (5, 7)])
def test_a_range_at_the_position_itself_is_passed_over(consumed, position):
    assert position_in_data(consumed, [SkippedRange("short", 4, 2)]) == position
