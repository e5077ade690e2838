"""Points of the picture: all borders are among them."""

from padless.config.compose import compose
from padless.plan.picture import draw_schedule, points_of
from padless.schedule.phases import plan_phases
from padless.schedule.step import settings_at


def test_both_sides_of_each_batch_size_are_drawn():
    plan = plan_phases(compose(["recipe=modernbert_base"]))[0]
    clocks = points_of(plan)
    assert clocks == sorted(set(clocks))
    assert {settings_at(plan, clock).batch_blocks for clock in clocks} == {96, 192, 288, 384, 480, 576}
    for start_block, _ in plan.levels[1:]:
        border = plan.start_tokens + start_block * plan.block_tokens
        assert border in clocks
        assert plan.clock_at_step(plan.step_at_clock(border) - 1) in clocks


def test_a_phase_of_one_step_has_one_point(tmp_path):
    config = compose(["phases.anneal.tokens=1K", "phases.anneal.save_every_tokens=1K"])
    plan = plan_phases(config)[-1]
    assert points_of(plan) == [plan.start_tokens]
    draw_schedule(config, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000
