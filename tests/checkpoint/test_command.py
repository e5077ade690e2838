"""``padless checkpoints RUN``: what is shown is what is there, and nothing is changed."""

import io
import json
from hashlib import sha256

import pytest
from rich.console import Console

from padless.checkpoint import list_checkpoints, newest_checkpoint
from padless.checkpoint.command import checkpoints_command, outlook_of, print_checkpoints
from padless.cli import main
from padless.errors import CheckpointError, ConfigError


@pytest.fixture
def run(tmp_path, save):
    """A run with a checkpoint in every state; the newest that is whole is context at 3000."""
    save("short", 1000, lr=8e-4, eval_loss=3.25)
    save("short", 2000, lr=8e-4, eval_loss=3.0, kept="phase end")
    save("context", 3000, lr=3e-4)
    truncated = save("context", 4000)
    truncated.write_bytes(truncated.read_bytes()[:-50])
    aside = save("context", 5000)
    for path in (aside, aside.with_suffix(".json")):
        path.rename(path.with_name(path.name + ".bad"))
    save("context", 6000).with_suffix(".json").unlink()
    return tmp_path


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def contents(folder):
    return {path: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("read_files", "fine"), [(True, "whole"), (False, "size ok")])
def test_rows_are_sorted_by_clock_with_their_state_and_nothing_is_changed(run, read_files, fine):
    before = contents(run)
    rows = list_checkpoints(run, read_files=read_files)
    assert [row.clock_tokens for row in rows] == [1000, 2000, 3000, 4000, 5000, 6000]
    states = [row.state for row in rows]
    assert states[:3] == [fine] * 3
    assert states[3].startswith("damaged: ")
    assert "bytes, should be" in states[3]
    assert states[4:] == ["set aside", "unfinished"]
    first = rows[0]
    assert (first.phase, first.step, first.lr, first.eval_loss, first.kept) == ("short", 10, 8e-4, 3.25, None)
    assert first.size_bytes == first.path.stat().st_size
    assert rows[1].kept == "phase end"
    assert (rows[5].step, rows[5].lr) == (None, None)
    assert contents(run) == before


def test_only_reading_finds_a_flipped_bit(run):
    flip(next(run.glob("checkpoints/context/context-3_000tok.pt")))
    assert list_checkpoints(run, read_files=False)[2].state == "size ok"
    assert list_checkpoints(run, read_files=True)[2].state == "damaged: content does not match its sha256"


@pytest.mark.parametrize("read_files", [True, False])
def test_the_one_named_is_the_one_a_resume_takes(run, read_files):
    taken = outlook_of(run, list_checkpoints(run, read_files=read_files)).taken
    assert taken is not None
    assert taken == newest_checkpoint(run, print)


def shown(run, width=200, read_files=True):
    text = io.StringIO()
    print_checkpoints(run, list_checkpoints(run, read_files=read_files), Console(file=text, width=width))
    return text.getvalue().splitlines()


def test_the_table_says_it_all_in_80_columns(run):
    lines = shown(run, width=80)
    title = next(number for number, line in enumerate(lines) if line.startswith("phase "))  # a long path takes two
    lines = lines[title - 1 :]
    assert lines[1].split() == ["phase", "tokens", "step", "LR", "eval", "loss", "size", "state", "kept", "because"]
    assert lines[2].split() == ["short", "1K", "10", "0.0008", "3.2500", *lines[2].split()[5:7], "whole"]
    assert lines[3].split()[-3:] == ["whole", "phase", "end"]
    assert [line.split()[-1] for line in lines[5:7]] == ["damaged", "aside"]
    assert all(len(line) <= 80 for line in lines[:8])
    assert lines[8].startswith("context-4_000tok.pt is damaged: ")
    assert lines[-1] == "a resume would take checkpoints/context/context-3_000tok.pt (3_000 tokens)"


def test_a_validation_loss_stands_only_where_it_was_measured(tmp_path, save, capsys):
    for clock in (1000, 2000, 3000):
        save("short", clock, eval_loss=3.25 if clock < 3000 else 3.0)
    lines = [{"tokens": clock, "loss": 4.0} for clock in (1000, 2000, 3000)]
    lines += [{"tokens": clock, "eval_loss": loss} for clock, loss in ((1000, 3.25), (3000, 3.0))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(f'{text}{{"tokens": 2000, "eval_loss"')  # a line that was cut off
    rows = [line.split() for line in shown(tmp_path) if line.startswith("short ")]
    assert ["3.2500" in row or "3.0000" in row for row in rows] == [True, False, True]
    checkpoints_command([str(tmp_path)], as_json=True)
    assert [row["eval_loss"] for row in json.loads(capsys.readouterr().out)["checkpoints"]] == [3.25, None, 3.0]


def test_without_reading_it_says_so(run):
    assert shown(run, read_files=False)[-1].endswith(
        "(3_000 tokens; only sizes were compared, verify=hash reads the files)"
    )


def resume_takes_it(run, save):
    save("short", 100)
    return "a resume would take checkpoints/short/short-100tok.pt (100 tokens)"


def first_save_cut_off(run, save):
    save("short", 100).with_suffix(".json").unlink()
    return f"a resume would start from the beginning: {run} has no checkpoint, only a save that a kill cut off"


def first_save_cut_off_and_set_aside(run, save):
    first_save_cut_off(run, save)
    assert newest_checkpoint(run, print) is None
    return f"a resume would start from the beginning: {run} has no checkpoint, only a save that a kill cut off"


def damaged(run, save):
    save("short", 100).write_bytes(b"")
    return f"a resume would stop with an error: {run / 'checkpoints'} has checkpoints, but none is whole"


def damaged_and_set_aside(run, save):
    save("short", 100).write_bytes(b"")
    with pytest.raises(CheckpointError):
        newest_checkpoint(run, print)
    return f"a resume would stop with an error: {run / 'checkpoints'} has checkpoints, but none is whole"


def only_a_stranger(run, save):
    save("short", 100).rename(run / "checkpoints" / "short" / "best.pt")
    (run / "checkpoints" / "short" / "short-100tok.json").unlink()
    return f"a resume would stop with an error: {run / 'checkpoints'} has checkpoints, but none is whole"


def sidecars_lost(run, save):
    for clock in (100, 200, 300):
        save("short", clock).with_suffix(".json").unlink()
    return f"a resume would stop with an error: {run / 'checkpoints'} has checkpoints, but none is whole: 3 files lack"


def deletion_cut_off(run, save):
    sidecar = save("short", 100).with_suffix(".json")
    sidecar.rename(sidecar.with_name(sidecar.name + ".deleting"))
    return "a resume would take checkpoints/short/short-100tok.pt (100 tokens; its deletion, which a kill cut off"


@pytest.mark.parametrize(
    "case",
    [
        resume_takes_it,
        first_save_cut_off,
        first_save_cut_off_and_set_aside,
        damaged,
        damaged_and_set_aside,
        only_a_stranger,
        sidecars_lost,
        deletion_cut_off,
    ],
)
def test_what_is_shown_is_what_the_next_start_does(tmp_path, save, capsys, case):
    expected = case(tmp_path, save)
    before = contents(tmp_path)
    lines = shown(tmp_path)
    capsys.readouterr()
    is_refused = "stop with an error" in expected
    line = lines[-2] if is_refused else lines[-1]
    assert line.startswith(expected)
    checkpoints_command([str(tmp_path)], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert contents(tmp_path) == before
    if is_refused:
        with pytest.raises(CheckpointError) as refused:
            newest_checkpoint(tmp_path, print)
        assert line.endswith(refused.value.cause)
        assert lines[-1] == f"  remedy: {refused.value.remedy}"
        assert (found["resume"], found["refusal"]) == (None, refused.value.cause)
        return
    taken = newest_checkpoint(tmp_path, print)
    assert (found["resume"], found["refusal"]) == (None if taken is None else str(taken), None)


def test_a_run_without_checkpoints_would_start_from_the_beginning(tmp_path):
    assert shown(tmp_path) == [f"a resume would start from the beginning: {tmp_path} has no checkpoint"]


def test_lost_sidecars_are_said_for_each_file_and_end_with_exit_code_0(tmp_path, save, capsys):
    sidecars_lost(tmp_path, save)
    assert main(["checkpoints", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "short-100tok.pt is damaged: its sidecar is missing" in out
    assert "short-200tok.pt is damaged: its sidecar is missing" in out
    assert "3 files lack their sidecars (.json)" in out


def test_the_command_takes_a_folder_or_a_name_under_runs(run, monkeypatch, capsys):
    (run.parent / "runs").mkdir(exist_ok=True)
    monkeypatch.chdir(run.parent)
    run.rename(run.parent / "runs" / "mine")
    for name in ("mine", "runs/mine", str(run.parent / "runs" / "mine")):
        checkpoints_command([name], as_json=False)
        assert "a resume would take" in capsys.readouterr().out
    (run.parent / "runs" / "mine").rename(run)


def test_json_has_every_row_and_the_one_a_resume_takes(run, save, capsys):
    save("context", 3000, lr=float("nan"))
    checkpoints_command([str(run), "verify=hash"], as_json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["ok"], found["run"]) == (True, str(run))
    assert [row["state"] for row in found["checkpoints"]][:3] == ["whole"] * 3
    assert found["checkpoints"][2]["lr"] is None
    assert found["resume"] == found["checkpoints"][2]["path"] == str(run / "checkpoints/context/context-3_000tok.pt")


def test_an_unknown_run_is_an_error_that_names_runs_nearby(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=r"third is no folder, and no run .*\n.*give one of runs/first, runs/second"
    ):
        checkpoints_command(["third"], as_json=False)
    with pytest.raises(CheckpointError, match=r"runs is not the folder of a run\n.*runs/first, runs/second"):
        checkpoints_command(["runs"], as_json=False)


def test_an_unknown_run_among_many_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"x is no folder, .*\n.*give the folder of a run"):
        checkpoints_command(["x"], as_json=False)
    for number in range(12):
        (tmp_path / "runs" / f"r{number:02}" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"runs/r07 and 4 more"):
        checkpoints_command(["x"], as_json=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"0 runs given \(none\), one is needed"),
        (["a", "b"], r"2 runs given \(a, b\), one is needed"),
        (["a", "verify=all"], "verify=all is not one of size, hash"),
        (["a", "verfy=hash"], r"unknown setting verfy=hash, did you mean verify=hash\n.*write: padless checkpoints"),
        (["a", "zzz=1"], r"unknown setting zzz=1\n.*write: padless checkpoints"),
    ],
)
def test_arguments_that_are_not_understood_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        checkpoints_command(arguments, as_json=False)
