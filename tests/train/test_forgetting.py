"""Forgetting: the source at clock 0 against the last evaluation, stream by stream, in a table and a picture."""

import matplotlib.image
from rich.console import Console

from padless.config.schema import StartConfig
from padless.train.forgetting import (
    BeforeAfter,
    before_and_after,
    continues,
    losses_by_stream,
    plot_forgetting,
    table_of,
)


def evaluation(tokens, domain, general):
    figures = {"eval_loss": (domain + general) / 2, "eval_loss_domain": domain, "eval_loss_general": general}
    return {"tokens": tokens, "step": tokens // 100, "phase": "adapt", **figures}


LINES = [
    evaluation(0, 5.0, 4.0),
    {"tokens": 100, "step": 1, "phase": "adapt", "loss": 5.1},
    evaluation(100, 4.5, 4.1),
    evaluation(200, 4.0, 4.25),
]


def test_the_source_is_compared_with_the_last_evaluation():
    assert before_and_after(LINES) == [BeforeAfter("domain", 5.0, 4.0), BeforeAfter("general", 4.0, 4.25)]
    assert [row.change for row in before_and_after(LINES)] == [-1.0, 0.25]


def test_without_the_source_at_clock_0_nothing_is_compared():
    assert before_and_after(LINES[1:]) == []  # a branch goes on at its parent's clock
    assert before_and_after(LINES[:1]) == []
    assert before_and_after([]) == []


def test_one_stream_alone_has_no_losses_by_stream():
    assert losses_by_stream({"eval_loss": 4.0, "eval_masked_tokens": 10.0}) == {}


def test_the_table_has_both_losses_and_the_change():
    console = Console(record=True, width=100)
    console.print(table_of(before_and_after(LINES), 200))
    text = console.export_text()
    assert [word for word in text.split() if word[0] in "+-"] == ["-1.0000", "+0.2500"]
    assert "after 200 tokens" in text


def test_the_picture_has_a_panel_a_stream_and_a_curve_a_run(tmp_path):
    plot_forgetting({"alone": LINES}, tmp_path / "one.png")
    plot_forgetting({"alone": LINES, "replay": [LINES[0], evaluation(200, 4.2, 4.05)]}, tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert one.shape == two.shape
    assert one.shape[1] > 1.8 * one.shape[0]
    assert (one != two).any()


def test_a_branch_does_not_begin_at_clock_0_and_a_fresh_run_continues_nothing():
    assert continues(StartConfig("weights", ("weights", "optimizer")))
    assert not continues(StartConfig("weights", ("weights", "optimizer", "clock")))
    assert not continues(StartConfig(None, ("weights",)))
