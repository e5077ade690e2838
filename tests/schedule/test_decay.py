"""How far a learning rate has come down, at the borders of a phase."""

import pytest

from padless.config.compose import compose
from padless.schedule.decay import ANNEALED_BELOW, lr_share_at
from padless.schedule.phases import plan_phases

DEMO = compose(["recipe=demo"])
SHORT, CONTEXT, ANNEAL = plan_phases(DEMO)


def test_a_warmup_and_a_constant_rate_are_not_a_decay():
    assert lr_share_at(DEMO, "short", 0) == 1.0
    assert lr_share_at(DEMO, "short", 1) == 1.0
    assert lr_share_at(DEMO, "context", CONTEXT.actual_end_tokens) == 1.0


def test_a_decay_goes_down_to_its_floor():
    assert lr_share_at(DEMO, "anneal", ANNEAL.start_tokens) == 1.0
    middle = lr_share_at(DEMO, "anneal", ANNEAL.start_tokens + 75_000)
    assert middle == pytest.approx(0.5, abs=0.01)  # 1 - sqrt(1/4)
    assert lr_share_at(DEMO, "anneal", ANNEAL.actual_end_tokens) == pytest.approx(0.001)
    assert lr_share_at(DEMO, "anneal", ANNEAL.end_tokens + 10**9) == pytest.approx(0.001)


def test_a_context_phase_that_ends_at_half_its_rate_is_not_annealed():
    ettin = compose(["recipe=ettin_150m"])
    plans = {plan.name: plan for plan in plan_phases(ettin)}
    assert lr_share_at(ettin, "context", plans["context"].actual_end_tokens) >= ANNEALED_BELOW
