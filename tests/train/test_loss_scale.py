"""The loss scale: halved by an overflow, doubled after many good steps, never below 1."""

from padless.train.loss_scale import FIRST_SCALE, LossScale


def test_an_overflow_halves_it_and_starts_counting_anew():
    assert LossScale(1024.0, 50).after_overflow() == LossScale(512.0, 0)


def test_at_one_it_cannot_fall_and_what_is_infinite_is_the_models():
    assert LossScale(2.0).can_fall
    last = LossScale(2.0).after_overflow()
    assert (last.factor, last.can_fall) == (1.0, False)
    assert last.after_overflow().factor == 1.0


def test_two_thousand_good_steps_double_it_up_to_a_limit():
    scale = LossScale()
    for _ in range(1_999):
        scale = scale.after_good_step()
    assert scale == LossScale(FIRST_SCALE, 1_999)
    assert scale.after_good_step() == LossScale(2 * FIRST_SCALE, 0)
    assert LossScale(2.0**24, 1_999).after_good_step() == LossScale(2.0**24, 0)
