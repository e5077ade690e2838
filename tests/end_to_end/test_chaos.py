"""Killed at named and at random moments, one process and two: in the end it is the run that nobody killed."""

import pytest

from padless.bench.chaos import run_chaos
from padless.bench.report import failures, summary

pytestmark = [pytest.mark.slow, pytest.mark.world, pytest.mark.composer]


def test_kills_are_survived_bit_for_bit(tmp_path):
    lines = []
    series = run_chaos(tmp_path, 2, 1, [1, 2], lambda outcome: lines.append(outcome.kill.number), lines.append)
    assert failures(series) == []
    assert summary(series).startswith("survived 2/2, slowest resume ")
    assert [len(each.outcomes) for each in series] == [1, 1]
    assert {outcome.kill.number for each in series for outcome in each.outcomes} <= set(lines)
    assert all(each.clocks[-1][-1][1] == 98_304 for each in series if each.clocks[-1])
