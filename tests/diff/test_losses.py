"""Where two runs part: exactly the first clock at which a bit differs."""

import math

from padless.diff.losses import compare_losses
from padless.diff.read import read_run

from .conftest import BRANCH, LOSSES, METRICS, eval_line, step_line


def compare(make_run, metrics_a, metrics_b):
    a, b = make_run("a", metrics=metrics_a), make_run("b", metrics=metrics_b)
    return compare_losses(read_run(str(a)), read_run(str(b)))


def test_equal_runs_agree_to_their_end(make_run):
    found = compare(make_run, METRICS, METRICS)
    assert found.parted_at_tokens is None
    assert (found.losses.same_until_tokens, found.losses.same_steps) == (3072, 6)
    assert found.largest_difference == 0
    assert found.common_validation == (3072, 6.0, 6.0)


def test_the_last_bit_of_one_loss_is_seen(make_run):
    lines = [step_line(number, loss) for number, loss in enumerate(LOSSES, 1)]
    other = [*lines[:3], step_line(4, math.nextafter(LOSSES[3], 8)), *lines[4:]]
    found = compare(make_run, lines, other)
    assert (found.losses.same_until_tokens, found.losses.same_steps) == (1536, 3)
    assert (found.losses.differs_at_tokens, found.losses.a, found.losses.b) == (2048, 6.75, math.nextafter(6.75, 8))
    assert found.blocks.differs_at_tokens is None
    assert found.largest_difference_at_tokens == 2048
    assert found.parted_at_tokens == 2048


def test_other_blocks_are_seen_before_losses_show_it(make_run):
    lines = [step_line(number, loss) for number, loss in enumerate(LOSSES, 1)]
    other = [lines[0], step_line(2, LOSSES[1], blocks="other"), *lines[2:]]
    found = compare(make_run, lines, other)
    assert (found.blocks.differs_at_tokens, found.blocks.a, found.blocks.b) == (1024, "block2", "other")
    assert found.losses.differs_at_tokens is None
    assert found.parted_at_tokens == 1024


def test_a_step_that_only_one_run_took_is_a_difference(make_run):
    lines = [step_line(number, loss) for number, loss in enumerate(LOSSES, 1)]
    found = compare(make_run, lines, [lines[0], *lines[2:]])
    assert (found.losses.differs_at_tokens, found.losses.a, found.losses.b) == (1024, 7.25, None)
    assert found.common_steps == 5


def test_a_shorter_run_agrees_as_far_as_it_goes(make_run):
    found = compare(make_run, METRICS[:4], METRICS)
    assert found.parted_at_tokens is None
    assert (found.a.tokens, found.a.steps, found.b.tokens) == (1536, 3, 3072)
    assert found.losses.same_until_tokens == 1536


def test_a_loss_that_is_not_finite_differs_from_one_that_is_and_not_from_another(make_run):
    bad, good = [step_line(1, 7.0), step_line(2, None)], [step_line(1, 7.0), step_line(2, 6.0)]
    found = compare(make_run, bad, good)
    assert (found.losses.differs_at_tokens, found.losses.a, found.losses.b) == (1024, "not finite", 6.0)
    assert found.largest_difference == 0  # of those that are finite
    assert (
        compare_losses(
            read_run(str(make_run("c", metrics=bad))), read_run(str(make_run("d", metrics=bad)))
        ).parted_at_tokens
        is None
    )


def test_no_common_clock_is_said(make_run):
    a = [step_line(number, loss) for number, loss in enumerate(LOSSES, 1)]
    b = [step_line(number, loss, tokens=500 * number) for number, loss in enumerate(LOSSES, 1)]
    found = compare(make_run, a, b)
    assert (found.common_steps, found.largest_difference, found.common_validation) == (0, None, None)
    assert (found.losses.differs_at_tokens, found.losses.same_steps) == (500, 0)


def test_what_each_reached_is_said(make_run):
    found = compare(make_run, METRICS, METRICS[:-1])
    assert (found.a.last_validation_tokens, found.a.last_validation_loss) == (3072, 6.0)
    assert (found.b.last_validation_tokens, found.b.last_validation_loss) == (0, 7.6)
    assert (found.a.phase, found.a.last_loss, found.a.real_tokens_per_s) == ("short", 6.25, 1000.0)


def test_validations_that_differ_are_seen_where_both_have_one(make_run):
    found = compare(make_run, METRICS, [*METRICS[:-1], eval_line(3072, 6.5)])
    assert (found.validation.differs_at_tokens, found.validation.a, found.validation.b) == (3072, 6.0, 6.5)
    assert found.parted_at_tokens == 3072


def branch_of(make_run, steps, **more):
    return read_run(str(make_run("b", lineage=[BRANCH], metrics=[eval_line(1024, 6.9), *steps], **more)))


def test_a_branch_is_compared_from_where_it_branches_off(make_run):
    a = read_run(str(make_run("a", metrics=[*METRICS, eval_line(1024, 6.9)])))
    lines = [step_line(number, loss) for number, loss in enumerate(LOSSES, 1)]
    b = branch_of(make_run, [lines[2], step_line(4, 6.5), lines[4]])
    found = compare_losses(a, b)
    assert (found.from_tokens, found.to_tokens, found.overlaps, found.common_steps) == (1024, 2560, True, 3)
    assert (found.losses.same_until_tokens, found.losses.same_steps, found.losses.differs_at_tokens) == (1536, 1, 2048)
    assert (found.largest_difference, found.largest_difference_at_tokens) == (0.25, 2048)
    assert found.blocks.differs_at_tokens is None
    assert found.common_validation == (1024, 6.9, 6.9)
    assert compare_losses(b, a).losses.differs_at_tokens == 2048
    assert compare_losses(b, b).parted_at_tokens is None


def test_steps_of_another_size_right_after_the_branch_are_a_difference(make_run):
    a = read_run(str(make_run("a")))
    found = compare_losses(a, branch_of(make_run, [step_line(3, 7.0, tokens=2048), step_line(4, 6.9, tokens=3072)]))
    assert (found.losses.differs_at_tokens, found.losses.a, found.losses.b) == (1536, 7.125, None)


def test_a_branch_that_begins_where_the_other_run_has_ended_shares_no_step(make_run):
    a = read_run(str(make_run("a", metrics=METRICS[:3])))
    found = compare_losses(a, branch_of(make_run, [step_line(3, 7.0)]))
    assert (found.overlaps, found.from_tokens, found.to_tokens, found.common_steps) == (False, 1024, 1024, 0)
    assert found.largest_difference is None
