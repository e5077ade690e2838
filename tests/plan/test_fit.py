"""Budgets: read, answered, and turned into a command that composes and stays within the time."""

import io

import pytest
from rich.console import Console

from padless.config.check import check
from padless.config.compose import compose
from padless.errors import ConfigError
from padless.plan.estimate import estimate
from padless.plan.fit import answer, parse_budget, print_answer
from padless.plan.hardware import parse_machine


@pytest.fixture(scope="module")
def three_days():
    return answer(parse_budget("8xh100, 3 days"))


@pytest.mark.parametrize(
    ("text", "count", "hours"),
    [
        ("8xh100, 3 days", 8, 72.0),
        ("1 x RTX 4090, 2 weeks", 1, 336.0),
        ("2x8xa100, 90 min", 16, 1.5),
        ("l4,12h", 1, 12.0),
        ("8xh100, 0.5 d", 8, 12.0),
    ],
)
def test_a_budget_is_hardware_and_a_time(text, count, hours):
    budget = parse_budget(text)
    assert (budget.machine.count, budget.hours) == (count, pytest.approx(hours))
    assert budget.gpu_hours == pytest.approx(count * hours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xh100", "is not hardware, a comma and a time"),
        ("8xh100, soon", "is not hardware, a comma and a time"),
        ("8xh100, 3 dayz", "'dayz' is not a unit of time"),
        ("8xh100, 1.2.3 days", "'1.2.3' is not a number"),
        ("8xh100, 0 days", "leaves no time"),
        ("8xh10, 3 days", "no GPU 'h10' in the table"),
        ("2xcpu, 3 days", "a CPU's speed has to be measured"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_budget(text)


def test_a_unit_that_is_nearly_one_is_named():
    with pytest.raises(ConfigError) as error:
        parse_budget("8xh100, 3 dayz")
    assert error.value.remedy.startswith("did you mean days?")


def test_larger_models_see_fewer_tokens(three_days):
    names = [size.model for size in three_days.sizes]
    assert names[:3] == ["17m", "32m", "68m"]
    assert {"base", "large", "1b"} < set(names)
    trained = [size.tokens for size in three_days.sizes if size.model != "mmbert"]
    assert trained == sorted(trained, reverse=True)


def test_the_suggestion_is_the_largest_with_the_tokens_a_parameter_of_large(three_days):
    good = [size.model for size in three_days.sizes if size.tokens_a_parameter >= three_days.enough]
    assert three_days.suggested == good[-1]
    assert three_days.enough == pytest.approx(2.019e12 / 395e6, rel=0.01)


def test_the_suggested_command_is_checked_and_takes_the_time(three_days):
    config = compose(three_days.command)
    assert check(config, 8) == []
    run = estimate(config, parse_machine("8xh100"), config.hardware.microbatch_blocks, 1.0)
    assert run.gpu_hours == pytest.approx(three_days.budget.gpu_hours, rel=0.02)


def test_hardware_without_a_file_is_spelt_out():
    found = answer(parse_budget("4xl40s, 10 days"))
    config = compose(found.command)
    assert config.hardware.world_size == 4
    assert check(config, 4) == []


def test_a_budget_that_trains_no_model_is_refused():
    with pytest.raises(ConfigError, match=r"GPU-hours on 1xt4 train no model, not even 17m"):
        answer(parse_budget("1xt4, 1 min"))


def test_the_table_has_a_line_a_size_and_the_command(three_days):
    out = io.StringIO()
    print_answer(three_days, 2.0, Console(file=out, width=100))
    text = out.getvalue()
    assert "576 GPU-hours, 1,152 USD at 2 a GPU-hour" in text
    assert all(size.model in text for size in three_days.sizes)
    assert f"suggested: {three_days.suggested}" in text
    assert " ".join(three_days.command) in text


def test_too_little_for_the_published_ratio_says_so():
    found = answer(parse_budget("1xrtx3090, 2 days"))
    assert found.suggested is None
    out = io.StringIO()
    print_answer(found, 1.0, Console(file=out, width=100))
    assert "the smallest comes nearest" in out.getvalue()
    assert found.as_plain(1.0)["suggested"] is None
