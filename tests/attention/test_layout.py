"""The layout of a batch, and the plan that groups its segments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.attention.api import SegmentLayout
from padless.attention.groups import cut_lengths, plan_groups


def test_positions_count_within_segments() -> None:
    layout = SegmentLayout.from_lengths((3, 1, 2))
    assert layout.positions_T.tolist() == [0, 1, 2, 0, 0, 1]
    assert layout.cu_seqlens_S1.tolist() == [0, 3, 4, 6]
    assert layout.positions_T is layout.positions_T  # made once for all layers


@pytest.mark.parametrize("lengths", [(), (3, 0)])
def test_empty_segments_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one segment, each of 1 token or more"):
        SegmentLayout(torch.zeros(len(lengths) + 1, dtype=torch.int32), lengths)


def test_borders_that_do_not_fit_the_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 segments need 3 borders"):
        SegmentLayout(torch.tensor([0, 4], dtype=torch.int32), (3, 1))


@pytest.mark.parametrize("shape", [(5, 3, 2, 8), (4, 2, 2, 8), (4, 3, 16)])
def test_qkv_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    layout = SegmentLayout.from_lengths((3, 1))
    layout.check(torch.zeros(4, 3, 2, 8))
    with pytest.raises(ValueError, match=r"expected \(4, 3, heads, head width\)"):
        layout.check(torch.zeros(shape))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.one_of(st.integers(1, 8), st.integers(1, 3000)), min_size=1, max_size=40))
def test_every_token_has_one_place_among_its_own_segment(lengths: list[int]) -> None:
    layout = SegmentLayout.from_lengths(tuple(lengths))
    plan = plan_groups(layout)
    assert torch.equal(plan.source_P[plan.place_T], torch.arange(layout.num_tokens))
    assert sorted(segment for group in plan.groups for segment in group.segments_G) == list(range(len(lengths)))
    segment_of_T = torch.from_numpy(layout.host_segment_ids_T())
    rows = plan.source_P.split(plan.sizes)
    for group, source in zip(plan.groups, rows, strict=True):
        owners_GL = segment_of_T[source].view(-1, group.places)
        assert torch.equal(owners_GL, torch.from_numpy(group.segments_G)[:, None].expand_as(owners_GL))
    assert plan.num_scores == sum(size * group.places for size, group in zip(plan.sizes, plan.groups, strict=True))


def test_cuts_follow_the_price_of_a_group() -> None:
    lengths = [10] * 50 + [1000] * 2
    assert cut_lengths(lengths, group_cost=4_096)[-1] == 1000
    assert len(cut_lengths(lengths, group_cost=4_096)) == 2
    assert cut_lengths(lengths, group_cost=10**9) == [1000]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=60))
def test_padding_never_costs_more_than_one_group_for_all(lengths: list[int]) -> None:
    plan = plan_groups(SegmentLayout.from_lengths(tuple(lengths)))
    assert plan.num_scores <= len(lengths) * max(lengths) ** 2
