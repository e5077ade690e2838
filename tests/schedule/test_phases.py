"""Phase borders on the run's clock: exact, cumulative, without drift."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.config.compose import compose
from padless.config.schema import BatchConfig, BatchWarmupConfig
from padless.schedule.phases import phase_at, plan_phases
from padless.schedule.step import settings_at

SMOKE = compose(["recipe=smoke"])


def with_phases(lengths, batches, block_tokens=256):
    template = SMOKE.phases["context"]
    names = [f"p{index}" for index in range(len(lengths))]
    phases = {
        name: replace(template, tokens=tokens, batch=batch)
        for name, tokens, batch in zip(names, lengths, batches, strict=True)
    }
    data = replace(SMOKE.data, block_tokens=block_tokens)
    return replace(SMOKE, phases=phases, phase_order=tuple(names), data=data)


def test_a_phase_ends_at_the_first_step_at_or_after_its_cumulative_end():
    plain = BatchConfig(4, 2, "exact", None)  # 1024 tokens a step
    first, second, third = plan_phases(with_phases([2048, 1500, 1500], [plain] * 3))
    assert (first.start_tokens, first.end_tokens, first.actual_end_tokens, first.steps_in_phase) == (0, 2048, 2048, 2)
    assert (second.start_tokens, second.end_tokens, second.actual_end_tokens) == (2048, 3548, 4096)
    assert (second.steps_in_phase, second.first_step) == (2, 2)
    assert (third.start_tokens, third.end_tokens, third.actual_end_tokens) == (4096, 5048, 5120)
    assert (third.steps_in_phase, third.first_step) == (1, 4)


def test_phase_at_each_border():
    plans = plan_phases(with_phases([2048, 1500], [BatchConfig(4, 2, "exact", None)] * 2))
    expected = [(0, "p0"), (2047, "p0"), (2048, "p1"), (3547, "p1"), (3548, "p1"), (10**12, "p1")]
    assert [(clock, phase_at(plans, clock).name) for clock, _ in expected] == expected


def test_published_base_recipe_takes_438_480_steps():
    plans = plan_phases(compose(["recipe=modernbert_base"]))
    assert [plan.steps_in_phase for plan in plans] == [374_902, 52_981, 10_597]
    assert [plan.end_tokens for plan in plans] == [1_719 * 10**9, 1_969 * 10**9, 2_019 * 10**9]


def test_published_large_recipe_trains_as_long_as_base():
    plans = plan_phases(compose(["recipe=modernbert_large"]))
    assert [plan.end_tokens for plan in plans][1:] == [1_719 * 10**9, 1_969 * 10**9, 2_019 * 10**9]


def test_smoke_recipe_takes_100_steps():
    assert sum(plan.steps_in_phase for plan in plan_phases(SMOKE)) == 100


def test_settings_of_a_step_restart_with_the_phase():
    plans = plan_phases(compose(["recipe=modernbert_base"]))
    pretrain, context, anneal = plans
    assert settings_at(pretrain, 0).lr == 0.0
    assert settings_at(pretrain, 0).batch_blocks == 96
    assert settings_at(pretrain, pretrain.clock_at_step(5 * 4239 - 1)).batch_blocks == 480
    assert settings_at(pretrain, pretrain.clock_at_step(5 * 4239)).batch_blocks == 576
    assert settings_at(pretrain, context.start_tokens - 1).lr == 8e-4
    assert settings_at(context, context.start_tokens).lr == 3e-4
    assert settings_at(anneal, anneal.start_tokens).lr == 3e-4
    assert settings_at(anneal, anneal.actual_end_tokens).lr == pytest.approx(3e-7, rel=0.1)


batches = st.one_of(
    st.integers(1, 40).map(lambda blocks: BatchConfig(blocks, 1, "exact", None)),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 60_000)).map(
        lambda t: BatchConfig(t[0] + t[1] * t[2], 1, "exact", BatchWarmupConfig(t[0], t[3], t[2], "steps"))
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(20_000, 120_000), batches), min_size=1, max_size=4), st.integers(8, 300))
def test_closed_form_borders_agree_with_walking_every_step(phases, block_tokens):
    config = with_phases([tokens for tokens, _ in phases], [batch for _, batch in phases], block_tokens)
    plans = plan_phases(config)
    clock = step = 0
    for plan in plans:
        assert (plan.start_tokens, plan.first_step) == (clock, step)
        while clock < plan.end_tokens:
            assert phase_at(plans, clock) is plan
            assert plan.step_at_clock(clock) == step - plan.first_step
            assert plan.clock_at_step(step - plan.first_step) == clock
            clock += settings_at(plan, clock).batch_blocks * block_tokens
            step += 1
        assert plan.actual_end_tokens == clock
        assert plan.steps_in_phase == step - plan.first_step
