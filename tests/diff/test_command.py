"""``padless diff`` as a user sees it."""

import json
import subprocess
import sys

import pytest

from padless.diff.command import diff_command
from padless.errors import ConfigError

from .conftest import METRICS, START, step_line


def output(capsys, *arguments):
    diff_command([str(argument) for argument in arguments], False)
    return capsys.readouterr().out


def test_identical_runs_are_said_to_be(make_run, capsys):
    out = output(capsys, make_run("a"), make_run("b"))
    assert "settings: no difference" in out
    assert out.splitlines()[-1] == (
        "the runs are identical in settings and provenance; every loss and block is the same, bit for bit, "
        "to 3_072 tokens"
    )


def test_a_difference_is_shown_by_key_and_clock(make_run, capsys):
    lines = [*METRICS[:3], step_line(3, 7.0), *METRICS[4:]]
    b = make_run("b", "run.seed=5", "run.name=other", metrics=lines, lineage=[{**START, "git": "def"}])
    out = output(capsys, make_run("a"), b).splitlines()
    assert "settings that change results: 1 differ (A | B)" in out
    assert "* run.seed: 17 | 5" in out
    assert "  run.name: smoke | other" in out
    assert out.index("* run.seed: 17 | 5") < out.index("  run.name: smoke | other")
    assert "  git: abc | def" in out
    assert "  resumes: 0 | 0" in out
    first = "the same, bit for bit, until 1_024 tokens (2 steps); first difference at 1_536: 7.125 | 7.0"
    assert f"  training loss: {first}" in out
    assert "  blocks: the same at all 6 common steps, to 3_072 tokens" in out
    assert "  largest difference of training losses: 0.125 at 1_536 tokens" in out
    assert "  reached: 3_072 tokens, step 6, phase short | 3_072 tokens, step 6, phase short" in out
    assert "  throughput: 1K real tokens/s | 1K real tokens/s" in out
    assert out[-1] == "the runs computed something else, first at 1_536 tokens"


def test_a_shorter_run_computed_the_same_as_far_as_it_goes(make_run, capsys):
    out = output(capsys, make_run("a"), make_run("b", metrics=METRICS[:3]))
    assert out.endswith("the same, bit for bit, to 1_024 tokens, where B ends\n")


def test_the_same_results_with_other_names_are_said_to_be(make_run, capsys):
    out = output(capsys, make_run("a"), make_run("b", "run.name=other"))
    assert out.splitlines()[-1].startswith("the runs computed the same: every loss")


def test_json_is_one_object_also_with_a_picture(make_run, capsys, tmp_path):
    metrics = [*METRICS[:3], step_line(3, None)]
    arguments = [str(make_run("a")), str(make_run("b", "run.seed=5", metrics=metrics)), f"out={tmp_path / 'd.png'}"]
    diff_command(arguments, True)
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["settings"] == [{"key": "run.seed", "a": 17, "b": 5, "changes_results": True}]
    assert {"name": "git", "a": "abc", "b": "abc", "differs": False} in found["provenance"]
    assert found["losses"]["losses"]["differs_at_tokens"] == 1536
    assert found["losses"]["losses"]["b"] == "not finite"
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_a_picture_is_announced(make_run, capsys, tmp_path):
    out = output(capsys, make_run("a"), make_run("b"), f"out={tmp_path / 'd.png'}")
    assert out.splitlines()[-1] == f"drawn: {tmp_path / 'd.png'}"


def test_lines_left_out_are_said(make_run, capsys):
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"tokens": 4')
    assert "note: lines of A that are cut off or not padless's, left out: 1" in output(capsys, folder, make_run("b"))


def test_a_stranger_s_text_does_not_steer_the_terminal(make_run, capsys):
    out = output(capsys, make_run("a"), make_run("b", lineage=[{**START, "git": "\x1b]0;owned\x07[red]x"}]))
    assert "\x1b" not in out
    assert "  git: abc | ?]0;owned?[red]x" in out


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["a"], "diff compares two runs, 1 given"),
        (["a", "b", "c"], "diff compares two runs, 3 given"),
        (["a", "b", "out=diff.jpg"], r"out=diff.jpg does not end in \.png"),
    ],
)
def test_other_arguments_are_refused_with_the_usage(arguments, cause):
    with pytest.raises(ConfigError, match=rf"{cause}\n  remedy: write: padless diff RUN_A RUN_B \[out=diff.png\]"):
        diff_command(arguments, False)


def test_it_needs_no_torch_and_no_composer(make_run):
    script = (
        "import sys; from padless.diff.command import diff_command; diff_command(sys.argv[1:], False);"
        "print([name for name in ('torch', 'composer', 'streaming', 'matplotlib') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", script, str(make_run("a")), str(make_run("b"))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
