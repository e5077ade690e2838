"""A first stop signal leaves time for a checkpoint; a second one does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from padless.errors import Stopped
from padless.processes import end_on_stop_signals
from padless.train.signals import StopSignals

WORKER = Path(__file__).with_name("signal_worker.py")
SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


@pytest.fixture
def start():
    started = []

    def begin(where, repeat_s=0.0):
        process = subprocess.Popen(
            [sys.executable, str(WORKER), where, str(repeat_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().split()

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", SIGNALS)
def test_in_training_the_first_signal_is_kept_by_name_and_ends_the_run_with_85_afterwards(start, number):
    process, _ = start("deferred")
    os.kill(process.pid, number)
    assert process.stdout.readline() == f"requested {number.name}\n"
    out, err = process.communicate("\n", timeout=30)
    assert out == f"stopped: stopped on {number.name}\n"
    assert err == f"{number.name}: a checkpoint after this step, then the end; again: the end at once\n"
    assert process.returncode == 85


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_training_the_first_signal_stops_the_main_thread(start, number):
    process, _ = start("elsewhere")
    os.kill(process.pid, number)
    assert process.communicate(timeout=30)[0] == f"stopped: stopped on {number.name}\n"
    assert process.returncode == 85


def test_a_second_signal_ends_the_process_at_once_with_85_and_a_line(start):
    process, _ = start("deferred")
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "requested SIGTERM\n"
    process.stdin.write("go on\n")
    process.stdin.flush()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.splitlines()[-1] == "SIGINT again: ended at once; the last checkpoint is whole"
    assert process.returncode == 85


def test_a_second_signal_works_while_the_main_thread_runs_no_python(start):
    process, _ = start("stuck")
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert "again: ended at once; the last checkpoint is whole" in err
    assert process.returncode == 85


def test_what_a_launcher_passes_on_a_moment_later_is_the_same_wish(start):
    process, _ = start("deferred", repeat_s=1000)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate("\n", timeout=30)
    assert out.startswith("stopped: stopped on SIG")
    assert "ended at once" not in err


def test_a_signal_to_a_forked_loader_process_is_not_one_to_its_rank(start):
    process, (_, child) = start("forked")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
        os.kill(int(child), number)
        time.sleep(0.05)
    assert process.poll() is None
    os.kill(int(child), signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("requested None\n", 0)


def test_handlers_are_put_back_and_a_thread_installs_none():
    before = [signal.getsignal(number) for number in SIGNALS]
    signals = StopSignals()
    signals.install()
    signals.install()
    assert [signal.getsignal(number) for number in SIGNALS] != before
    signals.uninstall()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    thread = threading.Thread(target=StopSignals().install)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_handlers_of_before_the_run_are_not_put_back_after_it():
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        end_on_stop_signals()
        signals = StopSignals()
        signals.install()
        signals.uninstall()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)  # a launcher's, because another rank has ended: this one's code stands
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def test_once_the_run_has_ended_a_signal_no_longer_changes_how():
    signals = StopSignals()
    signals.install()
    try:
        signals.settle(2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested is None
    finally:
        signals.uninstall()


def test_a_second_signal_after_the_run_ends_the_process_with_the_runs_code(start):
    process, _ = start("settled")
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 2


def test_within_this_process_a_signal_is_deferred_only_inside_the_block():
    signals = StopSignals()
    signals.install()
    try:
        signals.raise_if_requested()
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.requested == "SIGUSR1"
        with pytest.raises(Stopped, match=r"stopped on SIGUSR1"):
            signals.raise_if_requested()
    finally:
        signals.uninstall()
