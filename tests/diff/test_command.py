"""``padless diff`` as a user sees it."""

import json
import subprocess
import sys

import pytest

from padless.diff.command import diff_command
from padless.errors import ConfigError

from .conftest import BRANCH, METRICS, START, step_line


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


def test_a_branch_is_said_with_its_clock_and_file_and_compared_from_there(make_run, capsys):
    a, b = make_run("a"), make_run("b", lineage=[BRANCH], metrics=[METRICS[3], step_line(4, 6.5)])
    out = output(capsys, a, b).splitlines()
    assert out[2] == "B branches off at 1.024K tokens from runs/a/checkpoints/short/short-1_024tok.pt"
    assert "losses (A | B), compared after 1_024 tokens" in out
    first = "the same, bit for bit, until 1_536 tokens (1 step); first difference at 2_048: 6.75 | 6.5"
    assert f"  training loss: {first}" in out
    assert "  blocks: the same at all 2 common steps, to 2_048 tokens" in out
    assert out[-1] == "the runs computed something else, first at 2_048 tokens"
    diff_command([str(a), str(b)], True)
    found = json.loads(capsys.readouterr().out)
    assert found["branches"] == {"a": None, "b": [1024, "runs/a/checkpoints/short/short-1_024tok.pt"]}
    assert found["losses"]["from_tokens"] == 1024


def test_a_branch_that_computed_the_same_says_from_where(make_run, capsys):
    out = output(capsys, make_run("a"), make_run("b", lineage=[BRANCH], metrics=METRICS[3:]))
    assert out.endswith("every loss and block is the same, bit for bit, from 1_024 to 3_072 tokens\n")


def test_runs_that_share_no_step_are_not_said_to_be_the_same(make_run, capsys):
    a, b = make_run("a", metrics=METRICS[:2]), make_run("b", lineage=[BRANCH], metrics=METRICS[3:])
    out = output(capsys, a, b)
    assert out.endswith("the runs have no step in common: one begins at 1_024 tokens, the other ends at 512\n")
    assert "bit for bit" not in out
    assert "the same at all" not in out


def test_a_line_of_the_lineage_that_a_kill_cut_off_is_said_and_the_others_are_compared(make_run, capsys):
    b = make_run("b")
    with (b / "lineage.jsonl").open("a") as file:
        file.write('{"event": "res\n' + json.dumps({**START, "event": "resume", "git": "def"}) + "\n")
    out = output(capsys, make_run("a"), b).splitlines()
    assert "note: lines of B that are cut off or not padless's, left out: 1" in out
    assert "  resumes: 0 | 1" in out
    assert "  git: abc | abc, then def" in out


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
        (["a", "b", "ot=x.png"], r"unknown setting ot=x\.png, did you mean out=x\.png"),
        (["a", "b", "zzzz=1"], "unknown setting zzzz=1"),
    ],
)
def test_other_arguments_are_refused_with_the_usage(arguments, cause):
    with pytest.raises(ConfigError, match=rf"{cause}\n  remedy: write: padless diff RUN_A RUN_B \[out=diff.png\]"):
        diff_command(arguments, False)


def test_a_picture_in_a_folder_that_is_not_there_is_refused_and_makes_none(make_run, tmp_path):
    out = tmp_path / "nope" / "x.png"
    with pytest.raises(ConfigError, match=rf"out={out}: there is no folder {out.parent}\n  remedy: make it, or give"):
        diff_command([str(make_run("a")), str(make_run("b")), f"out={out}"], False)
    assert not out.parent.exists()


def test_a_run_with_an_equals_sign_in_its_name_is_a_run(make_run, capsys):
    assert "identical" in output(capsys, make_run("lr=1"), make_run("b"))


def test_it_needs_no_torch_and_no_composer(make_run):
    script = (
        "import sys; from padless.diff.command import diff_command; diff_command(sys.argv[1:], False);"
        "print([name for name in ('torch', 'composer', 'streaming', 'matplotlib') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", script, str(make_run("a")), str(make_run("b"))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
