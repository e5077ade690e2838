"""The commands as a user types them: exit codes, speed, what they import, and that nothing is written."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from padless.cli import exit_code_of, main

REPO = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "composer", "streaming", "transformers")


def run_python(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


def test_check_of_the_published_recipe_needs_neither_torch_nor_two_seconds(tmp_path):
    script = (
        "import sys; from padless.cli import main; code = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_python("-c", script, "check", "recipe=modernbert_base", "hardware=8xh100", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["ok: checked for 8 rank(s)", "[]"]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
    assert list(tmp_path.iterdir()) == []


def test_check_prints_the_plan_warnings_and_ok(capsys):
    assert main(["check", "eval.streams=[]"]) == 0
    out = capsys.readouterr().out
    assert "anneal" in out
    assert "warning: eval.streams is empty" in out
    assert out.endswith("ok: checked for 1 rank(s)\n")


def test_plan_as_json_is_one_object(capsys):
    assert main(["plan", "recipe=modernbert_base", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert [row["phase"] for row in answer["phases"]] == ["pretrain", "context", "anneal"]


def test_a_mistake_ends_with_2_cause_and_remedy(capsys):
    assert main(["check", "phases.short.lr.peek=1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown setting phases.short.lr.peek\n  remedy: did you mean")
    assert captured.out == ""


def test_a_mistake_as_json(capsys):
    assert main(["check", "recipe=none", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "available" in answer["remedy"]


def test_only_the_first_rank_prints_before_the_ranks_have_joined():
    command = [sys.executable, "-m", "padless.cli", "check", "recipe=none"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RANK": "1"}, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "neither checkpoint= nor run= given, one is needed"),
        (["checkpoint=a"], "out has no value"),
        (["checkpoint=a", "out="], "out has no value"),
        (["checkpoint=a", "to=b"], "unknown setting to=b"),
    ],
)
def test_export_wants_a_checkpoint_and_a_folder(capsys, arguments, cause):
    assert main(["export", *arguments]) == 2
    assert f"error: {cause}\n  remedy: write: padless export checkpoint=" in capsys.readouterr().err


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def broken(overrides):
        raise ZeroDivisionError

    monkeypatch.setattr("padless.config.compose.compose", broken)
    with pytest.raises(ZeroDivisionError):
        main(["check"])


def test_train_shows_its_configuration_and_writes_nothing(tmp_path):
    done = run_python(str(REPO / "train.py"), "--cfg", "job", "phases.context.lr.peak=1e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "peak: 0.0001" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["recipe=none", "phases.short.tokens=3", "recipe=domain_continued", "a b"])
def test_train_refuses_a_mistake_in_the_first_second_with_code_2(tmp_path, override):
    done = run_python(str(REPO / "train.py"), override, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "\n  remedy: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_py_stays_under_40_lines():
    assert len((REPO / "train.py").read_text().splitlines()) < 40


def test_words_may_stand_before_and_after_a_flag(capsys):
    assert main(["plan", "lengths=web", "--fit", "1xh100, 1 hour", "price=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--nothing"])
    assert "unrecognized arguments: --nothing" in capsys.readouterr().err


def test_ctrl_c_ends_a_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert exit_code_of(stopped) == 130
    assert capsys.readouterr().err == "interrupted\n"
