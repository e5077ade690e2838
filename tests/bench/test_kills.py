"""The plan of a chaos run: the same for a seed, all events and targets, each start passes the kill before it."""

from collections import Counter
from itertools import pairwise

import pytest

from padless.bench.kills import ORDER, RANDOM, plan_kills
from padless.bench.moments import LEADER_EVENTS
from padless.errors import ConfigError
from padless.events import EVENTS, TARGETS

SEEDS = range(40)


def test_a_seed_always_gives_the_same_plan_and_another_seed_another(moments):
    assert plan_kills(30, 3, [1, 2], moments) == plan_kills(30, 3, [1, 2], moments)
    assert plan_kills(30, 3, [1, 2], moments) != plan_kills(30, 4, [1, 2], moments)


@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_kills_cover_every_event_every_target_and_every_launcher(moments, seed):
    kills = plan_kills(30, seed, [1, 2], moments)
    assert [kill.number for kill in kills] == list(range(1, 31))
    assert {kill.named_event for kill in kills} >= set(EVENTS)
    assert {kill.event for kill in kills} == set(ORDER)
    for processes in (1, 2):
        own = [kill for kill in kills if kill.processes == processes]
        assert len(own) == 15
        assert {kill.target for kill in own} == set(TARGETS)
    assert {kill.launcher for kill in kills} == {"python", "torchrun", "composer"}
    assert {kill.rank for kill in kills} == {0, 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_clocks_ascend_so_that_no_start_waits_for_what_has_passed(moments, seed):
    kills = plan_kills(40, seed, [1, 2], moments)
    for before, kill in pairwise(kills):
        if before.processes == kill.processes:
            assert before.clock_tokens < kill.clock_tokens or before.event == kill.event == "export"
    for kill in kills:
        if kill.named_event in EVENTS:
            assert kill.clock_tokens in moments.clocks[kill.named_event]


def test_a_plain_process_is_never_killed_with_its_parent_or_siblings(moments):
    kills = [kill for seed in SEEDS for kill in plan_kills(30, seed, [1, 2], moments)]
    assert {kill.target for kill in kills if kill.launcher == "python"} == {"rank"}
    assert {kill.processes for kill in kills if kill.launcher == "python"} == {1}


def test_what_only_the_first_rank_does_is_counted_there(moments):
    kills = [kill for seed in SEEDS for kill in plan_kills(30, seed, [2], moments)]
    assert {kill.rank for kill in kills if kill.event in LEADER_EVENTS} == {0}
    assert {kill.rank for kill in kills if kill.event == "evaluation"} == {0, 1}


def test_ramp_kills_lie_within_the_ramp(moments):
    kills = [kill for seed in SEEDS for kill in plan_kills(30, seed, [1, 2], moments) if kill.event == "ramp"]
    assert kills
    assert all(512 < kill.clock_tokens < moments.ramp_end_tokens == 4096 for kill in kills)


def test_more_handovers_than_a_run_has_become_random_moments(moments):
    kills = plan_kills(40, 0, [1], moments)
    events = Counter(kill.event for kill in kills)
    assert events["handover"] == 2
    assert events[RANDOM] > 3
    assert len(kills) == 40


@pytest.mark.parametrize(
    ("count", "processes", "message"),
    [
        (0, [1], "kills=0 is less than 1"),
        (6, [], "processes= are not different numbers of 1 or more"),
        (6, [2, 2], "processes=2,2 are not different numbers"),
        (6, [0], "processes=0 are not different numbers"),
        (400, [1], "a run of 98_304 tokens has room for .* kills at ramp, not for"),
    ],
)
def test_impossible_plans_are_refused(moments, count, processes, message):
    with pytest.raises(ConfigError, match=message):
        plan_kills(count, 0, processes, moments)
