"""Who dies with whom, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from padless.errors import TrainingError
from padless.processes import (
    boot_id,
    die_with_launcher,
    has_ended,
    pid_space,
    run_module,
    shield_loader_process,
    started_ticks,
)
from waiting import wait_until

RANK = """
import os, sys, time
from padless.processes import die_with_launcher
die_with_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""
JOB = """
import json, os, sys
told = json.load(sys.stdin)
print("chatter")
if told["fails"]:
    sys.exit("Traceback:\\n  of its own\\nit went wrong\\n  here")
print(json.dumps([told, os.environ.get("RANK"), os.environ.get("WISH")]))
"""
LAUNCHER = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


def launch(environment):
    """Start a launcher that starts a rank; return the launcher, and the rank's pid and start."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK],
        stdout=subprocess.PIPE,
        text=True,
        env={**{k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}, **environment},
    )
    pid = int(launcher.stdout.readline())
    return launcher, pid, started_ticks(pid)


def test_a_rank_dies_with_its_launcher():
    launcher, pid, ticks = launch({"RANK": "1", "LOCAL_RANK": "1"})
    assert not has_ended(pid, ticks)
    launcher.kill()
    launcher.communicate()
    wait_until(lambda: has_ended(pid, ticks))


def test_a_plain_process_outlives_whoever_started_it():
    launcher, pid, ticks = launch({})
    launcher.kill()
    launcher.wait()
    time.sleep(0.5)
    assert not has_ended(pid, ticks)
    os.kill(pid, signal.SIGKILL)
    launcher.stdout.close()


def test_without_the_kernels_help_a_thread_watches_the_launcher(monkeypatch):
    rank = RANK.replace("die_with_launcher()\n", "sys.platform = 'other'; die_with_launcher()\n", 1)
    monkeypatch.setitem(globals(), "RANK", rank)
    launcher, pid, ticks = launch({"RANK": "1", "LOCAL_RANK": "1"})
    launcher.kill()
    launcher.communicate()
    wait_until(lambda: has_ended(pid, ticks))


EARLY = """
import signal, time
from padless.processes import end_on_stop_signals, holding_stop_signals
end_on_stop_signals()
with holding_stop_signals():
    signal.signal(signal.SIGTERM, lambda *_: print("a library's handler", flush=True))
    print("importing", flush=True)
    time.sleep({import_s})
print("imported", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(("import_s", "seen"), [(1, "importing"), (0, "imported")], ids=["importing", "imported"])
def test_a_stop_signal_before_the_run_means_85_whoever_sets_handlers_meanwhile(number, import_s, seen):
    process = subprocess.Popen(
        [sys.executable, "-c", EARLY.replace("{import_s}", str(import_s))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline() != f"{seen}\n":
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (85, "")
    assert err == f"stopped on {number.name} before the run began; the same command starts it\n"


def test_only_the_first_rank_says_that_it_was_stopped_before_the_run():
    code = "import os, signal; from padless.processes import end_on_stop_signals as end; end(); "
    code += "os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "RANK": "1"})
    assert (done.returncode, done.stderr) == (85, b"")


@pytest.mark.slow
@pytest.mark.composer
@pytest.mark.parametrize("after_s", [0.5, 3.0])
def test_a_real_start_that_is_stopped_in_its_first_seconds_ends_with_85(tmp_path, after_s):
    process = subprocess.Popen(
        [sys.executable, "train.py", "recipe=smoke", f"run.folder={tmp_path}", "data.prepare_bundled=true"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: has_set_handlers(process.pid))
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 85, output
    assert "stopped on SIGTERM" in output
    assert "Traceback" not in output


def has_set_handlers(pid):
    """Return whether a process catches SIGTERM: the first thing it does after Python's own start."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def loader():
    """Fork a loader process that is shielded; return its pid and start."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        shield_loader_process()
        os.write(writer, b"ready")
        while True:
            time.sleep(1)
    os.read(reader, 5)
    os.close(reader)
    os.close(writer)
    yield pid, started_ticks(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_loader_process_leaves_stop_signals_to_its_rank_but_obeys_the_rank(loader):
    pid, ticks = loader
    for name in ("TERM", "INT", "USR1", "TERM"):
        subprocess.run(["/bin/kill", f"-{name}", str(pid)], check=True)  # not from its parent
    time.sleep(0.3)
    assert not has_ended(pid, ticks)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: has_ended(pid, ticks))


def test_a_process_is_known_by_its_number_and_start():
    pid, ticks = os.getpid(), started_ticks(os.getpid())
    assert not has_ended(pid, ticks)
    assert has_ended(pid, ticks - 1)  # the number is used again
    assert not has_ended(pid, None)  # unknown
    child = subprocess.Popen([sys.executable, "-c", ""])
    began = started_ticks(child.pid)
    wait_until(lambda: has_ended(child.pid, began))  # a zombie
    child.wait()
    assert has_ended(child.pid, began)


def test_the_space_of_process_numbers_is_of_this_boot():
    assert pid_space().startswith(boot_id())
    if Path("/proc/self/ns/pid").exists():
        assert pid_space() != boot_id()


def test_a_process_without_a_launcher_asks_for_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("padless.processes.die_with", lambda parent: pytest.fail("asked"))
    die_with_launcher()


def test_a_module_does_a_job_by_itself_whatever_started_this_process(monkeypatch, tmp_path):
    (tmp_path / "job_of_a_test.py").write_text(JOB)
    monkeypatch.setenv("RANK", "3")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WISH": "granted"}
    told = {"fails": False}
    assert run_module("job_of_a_test", told, environment, "the job", "mend it") == [told, None, "granted"]
    with pytest.raises(TrainingError, match=r"^the job ended with code 1: it went wrong\n  remedy: mend it"):
        run_module("job_of_a_test", {"fails": True}, environment, "the job", "mend it")
