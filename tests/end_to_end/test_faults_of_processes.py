"""Killed, live, late and hanging processes around a run: who is named, what is cleaned, and that nothing is lost."""

import contextlib
import json
import os
import re
import signal
import socket
import time

import pytest
from faults import Rank, ends_as, file_locks_of, free_port, shared_memory_of, small, small_run
from here import refusal, run_here
from runs import finish, metrics, start, steps

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small_run(tmp_path_factory)


def at_step(processes, folders, step, timeout_s=120):
    """Wait until each of the runs has done ``step`` steps."""
    deadline = time.monotonic() + timeout_s
    while not all(len(steps(folder / "smoke")) >= step for folder in folders):
        for process in processes:
            assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


@pytest.fixture
def begin():
    """Start processes, and end the process groups of all of them afterwards."""
    started = []

    def begin(make):
        started.append(make())
        return started[-1]

    yield begin
    for each in started:
        process = getattr(each, "process", each)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_killed_runs_beside_a_live_one_on_the_same_data(undisturbed, tmp_path, begin):
    """Their shared memory is removed, with and without its file locks; the live run's stays, and nobody else enters."""
    live, with_locks, without_locks = folders = [tmp_path / name for name in ("live", "with", "without")]
    runs = []
    for folder in folders:
        runs.append(begin(lambda folder=folder: start(small(folder))))
        at_step(runs[-1:], [folder], 4)
        os.killpg(runs[-1].pid, signal.SIGSTOP)  # in the middle of its steps, however fast the machine is
    memory = [shared_memory_of(process.pid) for process in runs]
    locks = [file_locks_of(paths) for paths in memory]
    assert all(len(paths) > 5 for paths in memory), "an owner file and segments"
    assert all(locks)
    for process in runs[1:]:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for path in locks[2]:
        path.unlink()

    error = refusal(small(live))  # the same command once more
    holder = f"process {runs[0].pid} on host {socket.gethostname()} since "
    assert f"{live / 'smoke' / 'run.lock'}: the run folder is in use by {holder}" in error
    assert "remedy: wait for that run or stop it, or choose another run.name" in error
    assert all(path.exists() for path in memory[0])

    output = ends_as(undisturbed, small(with_locks), with_locks)
    assert f"took over the run folder from process {runs[1].pid} on host {socket.gethostname()}, which" in output
    # a line says what was removed, unless another run on this machine began in between: tests/data/test_leftovers.py
    assert not any(path.exists() for path in [*memory[1], *memory[2], *locks[1]])
    ends_as(undisturbed, small(without_locks), without_locks)
    assert all(path.exists() for path in memory[0]), "the live run's"

    os.killpg(runs[0].pid, signal.SIGCONT)
    finish(runs[0])
    assert metrics(live / "smoke") == metrics(undisturbed)
    assert not any(path.exists() for path in memory[0])


RANKS = {"hardware.rank_timeout_s": 10}


@pytest.mark.world
def test_a_rank_that_never_arrives_is_named_in_time(tmp_path, begin):
    rank = begin(lambda: Rank(small(tmp_path, **RANKS), 0, 2, free_port()))
    code, output = rank.end(within_s=200)
    assert code == 2, output
    assert f"error: rank 1 of 2 never arrived (waited 10 s); there are {rank.name}\n  remedy: look for that " in output
    assert "start as many ranks as the launcher was told" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.world
def test_a_rank_that_hangs_is_named_in_time_and_the_same_command_goes_on(undisturbed, tmp_path, begin):
    port = free_port()
    ranks = [begin(lambda rank=rank: Rank(small(tmp_path, **RANKS), rank, 2, port)) for rank in range(2)]
    at_step([rank.process for rank in ranks], [tmp_path], 8)
    os.kill(ranks[1].process.pid, signal.SIGSTOP)
    code, output = ranks[0].end(within_s=10 + 40)
    assert code == 2, output
    # the silence of its signs or its absence from a step's exchange: whichever limit is met first
    assert re.search(
        rf"error: {re.escape(ranks[1].name)} has not (answered|come to the exchange of a step) for", output
    )
    assert "look for its own error" in output
    assert "the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output
    status = json.loads((tmp_path / "smoke" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert ranks[1].name in status["message"]
    os.kill(ranks[1].process.pid, signal.SIGKILL)

    output = run_here(
        small(tmp_path, **RANKS)
    )  # alone; two ranks that go on are in test_elastic.py and the chaos bench
    assert "resumed phase short at " in output
    done, expected = steps(tmp_path / "smoke"), steps(undisturbed)
    assert [line["blocks"] for line in done] == [line["blocks"] for line in expected]
    assert [line["loss"] for line in done] == pytest.approx([line["loss"] for line in expected], rel=1e-5)
