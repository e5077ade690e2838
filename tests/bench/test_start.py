"""Processes of a start are found and ended, wherever they are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from padless.bench.chaos import run_whole
from padless.bench.start import MARK, Start, begin, launch_command, marked_processes
from padless.errors import TrainingError
from waiting import wait_until

CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True"
GRANDCHILD = "import pathlib, time; pathlib.Path({ready!r}).touch(); time.sleep(600)"


@pytest.fixture
def family(tmp_path):
    """A start whose process has a child in a session of its own, which carries RANK=1 as a launcher would set it."""
    mark, ready = os.urandom(8).hex(), tmp_path / "ready"
    grandchild = GRANDCHILD.format(ready=str(ready))
    code = CHILD.format(grandchild=grandchild) + ", env={**__import__('os').environ, 'RANK': '1'}); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: mark})
    (tmp_path / "log.txt").write_text("")
    start = Start(process, mark, tmp_path / "run", tmp_path / "log.txt", "torchrun", time.monotonic())
    wait_until(ready.exists, 30)
    yield start
    start.clear(0.0)


def test_a_child_in_its_own_session_is_found_with_its_rank(family):
    assert sorted(family.alive().values()) == ["", "1"]
    assert list(family.rank_pids()) == [1]
    assert marked_processes("another mark") == {}


def test_a_rank_that_outlives_its_launcher_is_counted_and_killed(family):
    (rank,) = family.rank_pids().values()
    family.kill("launcher", 0)
    family.process.wait()
    assert family.was_killed()
    _, survivors = family.clear(0.1)
    assert survivors == {rank: "1"}
    wait_until(lambda: family.alive() == {}, 30)


def test_the_launcher_that_outlives_its_rank_is_counted(family):
    family.kill("rank", 1)
    wait_until(lambda: len(family.alive()) == 1, 30)
    _, survivors = family.clear(0.1)
    assert survivors == {family.process.pid: ""}
    assert family.process.returncode == -signal.SIGKILL


def test_what_a_start_prints_and_writes_is_seen(family):
    family.log.write_text("plan\nphase 'short': from 3_072 to 50_000 tokens\n")
    family.run_folder.mkdir()
    metrics = family.run_folder / "metrics.jsonl"
    metrics.write_text('{"tokens": 3072, "step": 6, "loss": 1.0}\n')
    seen = family.look()
    assert (seen.resumed_tokens, seen.first_step_s, seen.first_batch_s, seen.phases_done) == (3072, None, None, False)
    with family.log.open("a") as log:
        log.write("resumed phase short at 3.072K tokens (batch 6) from x.pt; first batch after 0.9 s\n")
    metrics.write_text(metrics.read_text() + '{"tokens": 4096, "step": 7, "loss": 1.0}\n{"tokens": 51')
    seen = family.look()
    assert seen.first_batch_s == 0.9
    assert seen.first_step_s is not None
    assert seen.first_step_s > 0
    family.log.write_text("all phases are done at 98.3K tokens (step 100) from x.pt\n")
    assert family.look().phases_done


@pytest.mark.parametrize(
    "line",
    [
        "failed (exitcode: -9) local_rank: 1 (pid: 7) of binary",
        "ERROR:composer.cli.launcher:Rank 1 crashed with exit code -9.",
        "ERROR:composer.cli.launcher:Global rank 1 (PID 7) exited with code -9",
    ],
)
def test_a_launchers_words_for_a_killed_rank_are_known(tmp_path, line):
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    process.wait()
    log = tmp_path / "log.txt"
    start = Start(process, "mark", tmp_path, log, "composer", 0.0)
    log.write_text("ValueError: our own fault\n")
    assert not start.was_killed()
    log.write_text(line)
    assert start.was_killed()


def test_launchers_start_the_ranks_they_are_asked_for():
    assert launch_command("python", 1) == [sys.executable]
    assert launch_command("torchrun", 2)[-2:] == ["--nproc-per-node", "2"]
    assert launch_command("composer", 2)[1:] == ["-n", "2"]
    assert Path(launch_command("composer", 2)[0]).name == "composer"


def test_a_start_that_fails_is_an_error_with_its_last_words(tmp_path):
    with pytest.raises(TrainingError, match=r"the uninterrupted run failed \(code 2\): error: .*no_such_setting"):
        run_whole(["no_such_setting=1"], tmp_path, 1)


def test_a_start_passes_no_wish_of_an_outer_run_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PADLESS_KILL_AT", "step:1:0:rank")
    monkeypatch.setenv("RANK", "3")
    start = begin(["no_such_setting=1"], tmp_path / "run", tmp_path / "log.txt", "python", 1, None)
    environment = (Path("/proc") / str(start.process.pid) / "environ").read_bytes()
    start.process.wait()
    assert b"PADLESS_KILL_AT" not in environment
    assert b"\0RANK=" not in environment
