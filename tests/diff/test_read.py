"""Run folders are read as strangers' files: what is missing, too large or not ours is named, nothing runs."""

import json

import pytest

from padless.config.compose import compose
from padless.diff import read
from padless.diff.read import read_run
from padless.errors import CheckpointError, ConfigError

from .conftest import BRANCH, METRICS, START, eval_line, step_line


def test_a_run_is_read_with_its_steps_and_validations_by_clock(make_run):
    run = read_run(str(make_run("a")))
    assert run.config == compose(["recipe=smoke"])
    assert [step.tokens for step in run.steps] == [512, 1024, 1536, 2048, 2560, 3072]
    assert run.steps[1] == read.Step(1024, 2, "short", 7.25, "block2", 500.0, 0.5)
    assert run.validation == {0: 7.6, 3072: 6.0}
    assert run.lineage == [START]
    assert run.unread_lines == 0


def test_a_run_is_found_by_its_name_under_runs(make_run, tmp_path, monkeypatch):
    folder = make_run("a")
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert read_run("mine").folder.as_posix() == "runs/mine"
    with pytest.raises(ConfigError, match=r"there is no run folder yours, nor runs/yours"):
        read_run("yours")


@pytest.mark.parametrize("name", ["lineage.jsonl", "metrics.jsonl"])
def test_a_missing_file_is_named(make_run, name):
    folder = make_run("a")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{folder / name} cannot be read: No such file.*\n  remedy: give"):
        read_run(str(folder))


def test_a_folder_that_is_no_run_is_said_to_be_none(make_run, tmp_path, monkeypatch):
    folder = make_run("a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        read_run(str(tmp_path))
    assert refused.value.cause == f"{tmp_path} is not a run folder: it has no config.yaml"
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "mine")
    (tmp_path / "mine").mkdir()
    assert read_run("mine").folder.as_posix() == "runs/mine", "a folder of the same name that is no run"


RESUME = {**START, "event": "resume", "clock_tokens": 512}


@pytest.mark.parametrize(
    ("text", "events", "unread"),
    [
        ('{"event": "st\n' + json.dumps(RESUME) + "\n", ["start", "resume"], 1),
        ('{"event": "stopped", "clock_tok' + json.dumps(RESUME) + "\n", ["start", "resume"], 1),
        (json.dumps(RESUME) + '\n{"event": "stopp', ["start", "resume"], 1),
        (json.dumps(RESUME), ["start", "resume"], 0),
    ],
    ids=["on a line of its own", "before another on its line", "the last", "only its newline"],
)
def test_a_line_of_the_lineage_that_a_kill_cut_off_hides_no_other(make_run, text, events, unread):
    folder = make_run("a")
    with (folder / "lineage.jsonl").open("a") as file:
        file.write(text)
    run = read_run(str(folder))
    assert [line["event"] for line in run.lineage] == events
    assert run.lineage[-1] == RESUME
    assert run.unread_lines == unread


LATER_BRANCH = {**BRANCH, "clock_tokens": 1536, "detail": "runs/a/short-1_536tok.pt"}


@pytest.mark.parametrize(
    ("lineage", "first_step", "branch", "begin"),
    [
        ([START], 1, None, 0),
        ([LATER_BRANCH, RESUME], 4, (1536, "runs/a/short-1_536tok.pt"), 1536),
        ([{**LATER_BRANCH, "clock_tokens": 1024}, LATER_BRANCH], 4, (1536, "runs/a/short-1_536tok.pt"), 1536),
        ([LATER_BRANCH, START], 1, None, 0),
        ([], 4, None, 2047),
        ([{**LATER_BRANCH, "clock_tokens": "1536"}], 4, None, 2047),
    ],
    ids=["start", "branch", "branch again", "start after a branch", "no lineage", "odd clock"],
)
def test_where_a_run_begins_is_what_its_lineage_says_or_its_first_step(make_run, lineage, first_step, branch, begin):
    metrics = [step_line(number, 7.0) for number in range(first_step, 7)]
    run = read_run(str(make_run("b", lineage=lineage, metrics=metrics)))
    assert (run.branch, run.begin_tokens) == (branch, begin)


def test_a_run_without_a_step_cannot_be_compared(make_run):
    folder = make_run("a", metrics=[eval_line(0, 7.0)])
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has no step\n.*train at least one step"):
        read_run(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        b'{"tokens": 9, "lo',
        b"[1, 2]\n",
        b'{"tokens": -1, "step": 1, "phase": "short", "loss": 1.0, "blocks": "x"}\n',
        b'{"tokens": 1e400, "step": 1, "phase": "short", "loss": 1.0, "blocks": "x"}\n',
        b'{"tokens": 9, "step": 1, "phase": ["short"], "loss": 1.0, "blocks": "x"}\n',
        b'{"tokens": 9, "step": 1, "phase": "short", "loss": "1.0", "blocks": "x"}\n',
        b'{"tokens": 9, "eval_loss": NaN}\n',
        b'{"tokens": ' + b"9" * 5000 + b"}\n",
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b'{"tokens": "' + b"x" * (3 << 20) + b'"}\n',
    ],
    ids=["cut", "list", "negative", "infinite", "phase", "text", "nan", "huge number", "deep", "bytes", "long"],
)
def test_a_line_that_is_not_padless_s_is_left_out_and_counted(make_run, text):
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(text)
    run = read_run(str(folder))
    assert run.unread_lines == 1
    assert len(run.steps) == 6
    assert run.validation == {0: 7.6, 3072: 6.0}


def test_lines_after_one_that_is_too_long_are_read(make_run):
    folder = make_run("a", metrics=METRICS[:3])
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"x" * (5 << 20) + b"\n" + b'{"tokens": 9000, "eval_loss": 1.5}\n')
    run = read_run(str(folder))
    assert run.validation[9000] == 1.5
    assert run.unread_lines == 1


def test_a_file_larger_than_any_run_writes_is_refused_unread(make_run):
    folder = make_run("a")
    with (folder / "lineage.jsonl").open("r+b") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CheckpointError, match=r"lineage.jsonl has 67_108_865 bytes, padless reads at most 67_108_864"):
        read_run(str(folder))


def test_a_loss_that_was_not_finite_is_kept_as_such(make_run):
    folder = make_run("a", metrics=[step_line(1, None), step_line(2, float("nan")), step_line(3, 2.0)])
    assert [step.loss for step in read_run(str(folder)).steps] == [None, None, 2.0]


def test_the_last_of_two_lines_at_one_clock_counts(make_run):
    folder = make_run("a", metrics=[step_line(1, 1.0), step_line(1, 2.0)])
    assert [step.loss for step in read_run(str(folder)).steps] == [2.0]


def test_a_config_that_runs_code_is_refused_and_does_not(make_run, tmp_path):
    folder, canary = make_run("a"), tmp_path / "canary"
    (folder / "config.yaml").write_text(f"run: !!python/object/apply:os.system ['touch {canary}']\n")
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read: could not determine a constructor"):
        read_run(str(folder))
    assert not canary.exists()


def test_a_config_of_another_program_is_named_with_its_file(make_run):
    folder = make_run("a")
    (folder / "config.yaml").write_text("learning_rate: 1\n")
    with pytest.raises(ConfigError, match=r"a/config.yaml: unknown setting learning_rate"):
        read_run(str(folder))


def test_a_config_whose_order_names_no_phase_of_it_is_refused(make_run):
    folder = make_run("a")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("- anneal\n", "- nothing\n"))
    with pytest.raises(ConfigError, match=r"a/config.yaml: phase_order does not name each of its phases once"):
        read_run(str(folder))
