"""The plan table: figures from the schedule, and a print that a terminal of 80 columns holds."""

import io

import pytest
from rich.console import Console

from padless.config.compose import compose
from padless.plan.table import branch_rows, plan_rows, print_plan


def test_rows_say_what_the_published_base_recipe_does():
    pretrain, context, anneal = plan_rows(compose(["recipe=modernbert_base"]))
    assert (pretrain.steps, context.steps, anneal.steps) == (374_902, 52_981, 10_597)
    assert (pretrain.first_batch_blocks, pretrain.last_batch_blocks, pretrain.warmup_levels) == (96, 576, 5)
    assert pretrain.last_batch_tokens == 4608 * 1024
    assert (context.global_theta, context.local_theta) == (160_000, 10_000)
    assert anneal.lr_end == pytest.approx(3e-7)
    assert anneal.end_tokens == 2_019 * 10**9


def test_shares_of_streams_sum_to_one():
    (row, *_) = plan_rows(compose(["phases.short.streams={general: 2, code: 1, science: 1}"]))
    assert row.streams == {"general": 0.5, "code": 0.25, "science": 0.25}


def test_a_changing_mask_rate_shows_both_ends():
    (row, *_) = plan_rows(compose(["phases.short.masking={shape: linear, end_rate: 0.1}"]))
    assert (row.mask_rate, row.mask_end_rate) == (0.3, 0.1)


def test_the_table_names_each_phase_and_fits_80_columns():
    out = io.StringIO()
    print_plan(compose([]), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for words in ("short", "context", "anneal", "2 to 4", "4e-3 1-sqrt", "160K/10K", "general 50%", "warmup 300K"):
        assert words in text
    assert "1.501M tokens in 782 steps" in text


def test_an_early_stop_is_said():
    out = io.StringIO()
    print_plan(compose(["run.stop_after_tokens=1M"]), Console(file=out, width=100))
    assert "stopping early at 1M" in out.getvalue()


def test_each_branch_is_a_row_that_begins_where_the_phases_end():
    config = compose(["recipe=demo_branches"])
    rows = branch_rows(config)
    assert [row.phase for row in rows] == ["even", "science", "code"]
    assert {row.end_tokens for row in rows} == {1_500_000}
    assert {row.tokens for row in rows} == {147 * 2048}
    out = io.StringIO()
    print_plan(config, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    named = [lines[number + 1].split()[0] for number, line in enumerate(lines) if line.startswith("branch ")]
    assert named == ["even", "science", "code"]
    assert lines[-1] == "then 3 branches, each from 1.2M: 903.2K tokens in 441 steps more"
