"""What is printed, written and drawn of a chaos run."""

import io
import json

from rich.console import Console

from padless.bench.chaos import Outcome, Series
from padless.bench.kills import Kill
from padless.bench.report import as_plain, draw, failures, outcome_line, summary, table


def outcome(number=1, event="save_inside", target="rank", **facts):
    kill = Kill(number, 2, "torchrun", event, 6144, target, 1, 0.0)
    facts = {"resumed_tokens": 3072, "resume_s": 10.25, "first_batch_s": 0.75, "came_up": True, **facts}
    happened, survivors = facts.pop("happened", True), facts.pop("survivors", 0)
    return Outcome(kill, happened, 5120, 10.0 * number, 0.5, survivors, **facts)


def series(*outcomes, differences=()):
    clocks = [[(9.0 * number, 512), (10.0 * number, 5120)] for number in range(1, len(outcomes) + 1)]
    return Series(2, list(outcomes), list(differences), clocks)


def test_the_summary_names_survived_tried_and_the_slowest_resume():
    good = series(outcome(1), outcome(2, resume_s=14.21, first_batch_s=0.8))
    assert summary([good]) == (
        "survived 2/2, slowest resume 14.2 s (start of the process to its first new step; first batch after 0.8 s)"
        "; after a kill all other processes were gone within 0.5 s (limit 30 s)"
    )
    assert failures([good]) == []


def test_a_run_that_ends_differently_survived_nothing():
    bad = series(outcome(1), outcome(2), differences=["metrics line 7 (step 6): loss is 1.0, expected 2.0"])
    assert summary([bad]).startswith("survived 0/2,")
    assert failures([bad]) == ["2 process(es): metrics line 7 (step 6): loss is 1.0, expected 2.0"]


def test_not_reached_left_over_and_dead_for_good_do_not_count():
    lost = series(
        outcome(1),
        outcome(2, happened=False, problem="not reached"),
        outcome(3, survivors=1, problem="still there after 30 s: rank 1"),
        outcome(4, came_up=False, resume_s=None),
    )
    assert summary([lost]).startswith("survived 1/4,")
    assert failures([lost]) == [
        "kill 2 (save_inside, rank): not reached",
        "kill 3 (save_inside, rank): still there after 30 s: rank 1",
        "kill 4 (save_inside, rank): no start came up after it",
    ]
    plain = as_plain([lost], seed=3, wall_s=1.0)
    assert plain["ok"] is False
    assert [kill["survived"] for kill in plain["series"][0]["kills"]] == [True, False, False, False]
    assert json.loads(json.dumps(plain)) == plain


def test_each_kill_is_a_line():
    line = outcome_line(outcome(1), 30)
    words = "kill 1/30 2 proc torchrun save_inside rank 1 at 5.12K tokens then first new step after 10.2 s, first batch"
    assert " ".join(line.split()) == f"{words} 0.8 s"
    assert "NOT REACHED" in outcome_line(outcome(1, happened=False, problem="not reached"), 30)
    assert "NO START CAME UP AFTER IT" in outcome_line(outcome(1, came_up=False), 30)
    assert "then nothing left to train" in outcome_line(outcome(1, resume_s=None), 30)


def test_the_table_counts_by_event_and_target():
    out = io.StringIO()
    shown = series(
        outcome(1), outcome(2, target="ranks"), outcome(3, event="export", target="launcher", happened=False)
    )
    Console(file=out, width=100).print(table([shown]))
    rows = [line.replace("│", " ").split() for line in out.getvalue().splitlines() if line.startswith("│")]
    assert rows == [["export", "-", "-", "0/1", "0/1"], ["save_inside", "1/1", "1/1", "-", "2/2"]]


def test_the_picture_is_written(tmp_path):
    draw([series(outcome(1), outcome(2, target="launcher")), series()], tmp_path / "chaos.png")
    assert (tmp_path / "chaos.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "chaos.png").stat().st_size > 10_000
