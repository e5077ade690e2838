"""SIGTERM and SIGUSR1: a checkpoint at the next step, exit code 85, and the same command is the run nobody stopped."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from here import run_here
from runs import finish, metrics, overrides, run, start, steps

pytestmark = [pytest.mark.slow, pytest.mark.composer]

BIN = Path(sys.executable).parent
COMPOSER = (str(BIN / "composer"), "-n", "2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STOP = {"run.stop_after_tokens": "40_000", "export.enabled": "false"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_here(overrides(folder, **STOP))
    return metrics(folder / "smoke")


def status(folder):
    return json.loads((folder / "smoke" / "status.json").read_text())


def at_step(process, run_folder, step, timeout_s=200):
    """Wait until ``step`` steps are in the metrics."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        done = steps(run_folder)
        if done and done[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not get to step {step}:\n{finish(process, expect=None)[-3000:]}")


def same_losses(folder, expected, exact):
    done = metrics(folder / "smoke")
    if exact:
        assert done == expected
    assert [line.get("blocks") for line in done] == [line.get("blocks") for line in expected]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_stops_with_a_checkpoint_and_code_85_and_the_same_command_goes_on(tmp_path, whole, number):
    process = start(overrides(tmp_path, **STOP))
    at_step(process, tmp_path / "smoke", 12)
    process.send_signal(number)
    output = finish(process, expect=85)
    assert f"stopped on {number.name} at " in output
    assert "Traceback" not in output
    after = status(tmp_path)
    assert (after["state"], after["exit_code"]) == ("stopped", 85)
    last = steps(tmp_path / "smoke")[-1]
    assert last["step"] >= 12
    assert (after["clock_tokens"], after["step"]) == (last["tokens"], last["step"]), "it stopped at the step it saved"
    assert Path(after["checkpoint"]).is_file()
    assert last["step"] < whole[-1]["step"]
    output = run_here(overrides(tmp_path, **STOP))
    assert f"resumed phase short at {last['tokens'] / 1000:.4g}K tokens (batch {last['step']}) from " in output
    assert "; first batch after " in output
    same_losses(tmp_path, whole, exact=True)
    events = [json.loads(text)["event"] for text in (tmp_path / "smoke" / "lineage.jsonl").read_text().splitlines()]
    assert events == ["start", "stopped", "resume", "stopped"]
    assert status(tmp_path)["state"] == "finished"


@pytest.mark.world
@pytest.mark.parametrize(("launcher", "code"), [(COMPOSER, 85), (TORCHRUN, 1)], ids=["composer", "torchrun"])
def test_a_launcher_passes_the_signal_on_and_all_ranks_stop_at_one_step(tmp_path, whole, launcher, code):
    process = start(overrides(tmp_path, **STOP), launcher)
    at_step(process, tmp_path / "smoke", 8)
    process.send_signal(signal.SIGTERM)
    finish(process, expect=None)
    assert process.returncode in (code, -signal.SIGTERM, 128 + signal.SIGTERM)
    after = status(tmp_path)
    assert (after["state"], after["exit_code"]) == ("stopped", 85), "whatever the launcher makes of the code"
    assert steps(tmp_path / "smoke")[-1]["step"] == after["step"]
    if launcher == COMPOSER:
        run(overrides(tmp_path, **STOP), launcher)
    else:  # alone: two ranks of torchrun that go on are in test_elastic.py
        run_here(overrides(tmp_path, **STOP))
    same_losses(tmp_path, whole, exact=False)


def test_a_second_signal_ends_the_run_at_once_and_the_last_checkpoint_is_whole(tmp_path, whole):
    """A run that is frozen in a step (here: stopped by the kernel) has not come to its checkpoint yet."""
    process = start(overrides(tmp_path, **STOP, **{"hardware.num_threads": 1}))
    at_step(process, tmp_path / "smoke", 8)
    process.send_signal(signal.SIGSTOP)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(3.5)
    process.send_signal(signal.SIGCONT)
    os.kill(process.pid, signal.SIGTERM)
    finish(process, expect=85)
    run_here(overrides(tmp_path, **STOP))
    same_losses(tmp_path, whole, exact=True)
