"""Bad steps: not finite, or far above the window; and what is neither."""

import math

import pytest

from padless.config.compose import compose
from padless.schedule.phases import plan_phases
from padless.schedule.spike import comparable_losses, name_bad_step, spike_limit

GUARD = compose(["recipe=smoke", "guard.window_steps=8", "guard.spike_deviations=10", "guard.spike_min_nats=0.5"]).guard
WINDOW = [4.0, 4.1, 3.9, 4.05, 3.95, 4.0, 4.1, 3.9]


def test_there_is_no_limit_before_the_window_is_full():
    assert spike_limit(WINDOW[:7], GUARD) is None
    assert name_bad_step(99.0, 1.0, WINDOW[:7], GUARD) is None


def test_the_limit_is_ten_scaled_deviations_above_the_median():
    # median 4.0; absolute deviations 0, .1, .1, .05, .05, 0, .1, .1 have the median 0.075
    assert spike_limit(WINDOW, GUARD) == pytest.approx(4.0 + 10 * 1.4826 * 0.075)


def test_a_quiet_window_still_allows_the_least_rise():
    assert spike_limit([4.0] * 8, GUARD) == 4.5


def test_one_earlier_outlier_does_not_move_the_limit_far():
    assert spike_limit([*WINDOW[:7], 50.0], GUARD) == pytest.approx(spike_limit(WINDOW, GUARD), abs=0.5)


@pytest.mark.parametrize(
    ("loss", "norm", "words"),
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, 1.0, "loss is inf"),
        (4.0, math.inf, "gradient norm is inf"),
        (4.0, math.nan, "gradient norm is nan"),
        (5.2, 1.0, "loss 5.2000 is a spike: over 5.1119, 8 steps before it had a median of 4.0000"),
    ],
)
def test_bad_steps_are_named(loss, norm, words):
    assert name_bad_step(loss, norm, WINDOW, GUARD) == words


def test_after_a_jump_of_the_mask_rate_only_steps_since_then_count():
    masking = "phases.short.masking={rate: 0.3, shape: step, end_rate: 0.1, step_at_tokens: 20_000}"
    plan = plan_phases(compose(["recipe=smoke", masking]))[0]
    window = [float(number) for number in range(8)]
    jump = next(step for step in range(60) if plan.clock_at_step(step) >= 20_000)
    sizes = [len(comparable_losses(window, plan, plan.clock_at_step(jump + step))) for step in (-2, -1, 0, 1, 2, 8, 20)]
    assert sizes == [8, 8, 0, 1, 2, 8, 8]
    assert comparable_losses(window, plan, plan.clock_at_step(jump + 2)) == [6.0, 7.0]
    constant = plan_phases(compose(["recipe=smoke"]))[0]
    assert comparable_losses(window, constant, 30_000) == window


def test_a_step_within_the_limit_and_a_fall_are_good():
    assert name_bad_step(5.1, 1.0, WINDOW, GUARD) is None
    assert name_bad_step(0.1, 1.0, WINDOW, GUARD) is None


def test_a_falling_curve_raises_no_alarm():
    losses = [11 - 8 * step / 300 for step in range(300)]
    assert all(name_bad_step(losses[n], 1.0, losses[n - 8 : n], GUARD) is None for n in range(8, 300))
