"""Budgets: read, answered, and turned into a command that composes and stays within the time."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from padless.config.check import check
from padless.config.compose import compose
from padless.errors import ConfigError
from padless.plan.devices import GPUS
from padless.plan.estimate import estimate
from padless.plan.fit import Budget, answer, parse_budget, print_answer, suggest
from padless.plan.hardware import machine_of, parse_machine


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
        ("8xh100, 1 year", 8, 8766.0),
        ("8xh100, 2 months", 8, 1461.0),
        ("8xh100, 2mo", 8, 1461.0),
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
        ("8xh100, 3 M", "'M' may be minutes or months"),
        ("8xh100, 3m", "'m' may be minutes or months"),
        (f"8xh100, {'9' * 400} days", "is too long a time"),
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
    with pytest.raises(ConfigError, match=r"GPU-hours on 1xt4 train no model, not even 17m: a phase would be shorter"):
        answer(parse_budget("1xt4, 1 min"))


def test_a_gpu_without_memory_for_any_model_is_named():
    tiny = replace(GPUS["t4"], memory_mib=512)
    with pytest.raises(ConfigError, match="the memory of one t4 holds no model, not even 17m") as error:
        answer(Budget(machine_of(tiny, 1), 24.0))
    assert error.value.remedy.startswith("take a GPU with more memory: h200, h100")


@pytest.mark.parametrize(("hardware", "able"), [("7xh100", "6xh100 or 8xh100 can"), ("1024xh100", "96xh100 can")])
def test_ranks_that_do_not_divide_the_batch_are_told_from_lack_of_time(hardware, able):
    with pytest.raises(ConfigError, match=f"{hardware}: {hardware[:-5]} does not divide 96") as error:
        answer(parse_budget(f"{hardware}, 3 days"))
    assert error.value.remedy.startswith(able)


@pytest.mark.parametrize(
    "text", ["1xh100, 4 min", "1xh100, 10 min", "1xh100, 1 hour", "1xt4, 3 hours", "8xt4, 1 year", "96xh200, 30 years"]
)
def test_every_size_that_gets_tokens_could_be_suggested(text):
    budget = parse_budget(text)
    found = answer(budget)
    for size in [size for size in found.sizes if size.tokens][:: 4 if budget.hours > 2 else 1]:
        config = compose(suggest(size, budget))
        check(config, budget.machine.count)
        assert sum(phase.tokens for phase in config.phases.values()) == pytest.approx(size.tokens, rel=0.01)


def test_lack_of_time_is_told_from_lack_of_memory():
    found = answer(parse_budget("1xt4, 3 hours"))
    lacks = {size.model: size.lacks for size in found.sizes}
    assert lacks["17m"] is None
    assert lacks["base"] == "time"
    assert lacks["1b"] == "memory"
    out = io.StringIO()
    print_answer(found, 1.0, Console(file=out, width=100))
    assert "too little time" in out.getvalue()
    assert "too little memory" in out.getvalue()


def test_tokens_go_on_with_the_time():
    one, ten = (answer(parse_budget(f"96xh200, {years} years")).sizes[0].tokens for years in (100, 1000))
    assert ten == pytest.approx(10 * one, rel=0.02)
    assert one > 1000 * 2.019e12


def test_the_table_has_a_line_a_size_and_the_command(three_days):
    out = io.StringIO()
    print_answer(three_days, 2.0, Console(file=out, width=100))
    text = out.getvalue()
    assert "576 GPU-hours, 1,152 USD at 2 a GPU-hour" in text
    assert all(size.model in text for size in three_days.sizes)
    assert f"suggested: {three_days.suggested}" in text
    assert " ".join(three_days.command) in text
    assert "batches and learning rates are modernbert_base's at any size" in text


def test_too_little_for_the_published_ratio_says_so():
    found = answer(parse_budget("1xrtx3090, 2 days"))
    assert found.suggested is None
    out = io.StringIO()
    print_answer(found, 1.0, Console(file=out, width=100))
    assert "the smallest comes nearest" in out.getvalue()
    assert found.as_plain(1.0)["suggested"] is None
