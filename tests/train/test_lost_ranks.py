"""Real ranks, killed, frozen, failing or never started: the others end within the stated time and name them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from padless.run_files import STATUS
from padless.train.status import read_status
from waiting import wait_until

WORKER = Path(__file__).with_name("rank_worker.py")
HERE = socket.gethostname()
JOINED_S = 120  # a loaded machine imports slowly
NAMED_S = 40  # a loaded machine is slow; less than any timeout that could end a rank instead
TIMEOUT_S = 6  # five of the signs that a rank then gives
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "composer": [str(Path(sys.executable).parent / "composer"), "-n", "2"],
}
pytestmark = [pytest.mark.slow, pytest.mark.world, pytest.mark.composer]


class RankServer:
    """A process that forks ranks (``rank_server.py``): they are processes of their own, without imports to wait for."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER.with_name("rank_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def begin(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Rank(int(self.process.stdout.readline()), Path(job["output"]))


class Rank:
    """A forked rank; its code is None as long as it lives."""

    def __init__(self, pid, output):
        self.pid, self.output = pid, output

    @property
    def returncode(self):
        code = Path(f"{self.output}.code")
        return int(code.read_text()) if code.exists() else None

    def kill(self):
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            wait_until(lambda: self.returncode is not None, 20)


class Ranks:
    """Two ranks as composer starts them, without the launcher, which would end the second with the first."""

    def __init__(self, server, folder, what, timeout_s, ranks):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.processes = folder, {}
        for rank in ranks:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "NODE_RANK": 0}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            self.processes[rank] = server.begin(
                folder=str(folder),
                what=what,
                timeout_s=timeout_s,
                environment={name: str(value) for name, value in names.items()},
                output=str(folder / f"output-{rank}"),
            )

    def wait_until_joined(self):
        wait_until(lambda: all((self.folder / f"rank-{rank}").exists() for rank in self.processes), JOINED_S)

    def kill(self, rank, number=signal.SIGKILL):
        os.kill(self.processes[rank].pid, number)

    def outcome(self, rank, within_s):
        """Return exit code and output of a rank that has to end within a time."""
        process = self.processes[rank]
        wait_until(lambda: process.returncode is not None, within_s)
        return process.returncode, process.output.read_text(errors="replace")

    def name(self, rank):
        return f"rank {rank} (pid {self.processes[rank].pid} on {HERE})"


@pytest.fixture(scope="module")
def server():
    server = RankServer()
    yield server
    server.process.kill()  # and its ranks with it
    server.process.communicate()


@pytest.fixture
def start(server, tmp_path):
    started = []

    def begin(what, timeout_s=60.0, ranks=(0, 1)):
        started.append(Ranks(server, tmp_path, what, timeout_s, ranks))
        return started[-1]

    yield begin
    for ranks in started:
        for process in ranks.processes.values():
            process.kill()


def test_a_killed_rank_is_named_by_the_other_whose_collective_fails(start):
    lost = 1
    ranks = start("collective")
    ranks.wait_until_joined()
    ranks.kill(lost)
    code, output = ranks.outcome(1 - lost, NAMED_S)
    assert code == 2, output
    assert f"error: {ranks.name(lost)} ended without a word (killed, or out of memory)\n  remedy: look for" in output


def test_a_killed_rank_0_and_its_store_end_the_other_that_is_in_no_collective(start, tmp_path):
    lost = 0
    ranks = start("sleep")
    ranks.wait_until_joined()
    ranks.kill(lost)
    code, output = ranks.outcome(1 - lost, NAMED_S)
    line = f"{ranks.name(lost)} ended without a word (killed, or out of memory)"
    assert code == 2, output
    assert output.count(f"error: {line}; look for its own error") == 1
    assert (tmp_path / f"told-{1 - lost}").read_text() == f"2 {line}"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_frozen_rank_is_named_after_the_timeout(start, lost):
    ranks = start("collective", timeout_s=TIMEOUT_S)
    ranks.wait_until_joined()
    ranks.kill(lost, signal.SIGSTOP)
    began = time.monotonic()
    code, output = ranks.outcome(1 - lost, TIMEOUT_S + NAMED_S)
    assert time.monotonic() - began > TIMEOUT_S - 2
    assert code == 2, output
    assert f"error: {ranks.name(lost)} has not answered for {TIMEOUT_S} s; look for its own error" in output
    ranks.kill(lost, signal.SIGCONT)  # thawed, it is no second writer
    assert ranks.outcome(lost, NAMED_S)[0] not in (0, None)


def test_a_rank_whose_main_thread_hangs_is_named_after_the_timeout_and_ends_too(start, tmp_path):
    ranks = start("hang", timeout_s=TIMEOUT_S)
    wait_until(lambda: (tmp_path / "hangs").exists(), JOINED_S)
    began = time.monotonic()
    ranks.kill(1, signal.SIGTERM)  # as a launcher or a user may; it does not come to its handler's wish
    code, output = ranks.outcome(0, TIMEOUT_S + NAMED_S)
    assert time.monotonic() - began > TIMEOUT_S - 2
    line = f"{ranks.name(1)} has not come to the exchange of a step for {TIMEOUT_S} s"
    line += "; its process runs, its main thread hangs"
    assert code == 2, output
    assert f"error: {line}\n  remedy: look for its own error in the output; the same command goes on" in output
    assert len(output.splitlines()) == 2, "and nothing of gloo's"
    code, output = ranks.outcome(1, NAMED_S)
    assert code == 2, output
    assert f"[rank 1] error: {line}; look for its own error" in output


def test_a_killed_rank_0_does_not_leave_a_status_that_says_running(start, tmp_path):
    ranks = start("supervised")
    wait_until(lambda: (tmp_path / "run" / STATUS).exists(), JOINED_S)
    assert read_status(tmp_path / "run").state == "running"
    ranks.kill(0)
    code, output = ranks.outcome(1, NAMED_S)
    assert code == 2, output
    status = read_status(tmp_path / "run")
    assert (status.state, status.exit_code, status.pid) == ("failed", 2, ranks.processes[1].pid)
    assert status.message == f"{ranks.name(0)} ended without a word (killed, or out of memory)"


def test_what_rank_0_wrote_at_its_end_is_not_replaced_by_another(start, tmp_path):
    ranks = start("own")
    assert [ranks.outcome(rank, JOINED_S)[0] for rank in (0, 1)] == [2, 2]
    status = read_status(tmp_path / "run")
    assert (status.message, status.pid) == ("shard 7 is damaged", ranks.processes[0].pid)


def test_a_rank_that_fails_alone_ends_the_other_with_its_error(start):
    ranks = start("raise")
    code, output = ranks.outcome(0, JOINED_S)
    assert code == 2, output
    assert f"error: {ranks.name(1)} has ended: shard 7 is damaged; look for its own error" in output
    code, output = ranks.outcome(1, NAMED_S)
    assert (code, "[rank 1] error: shard 7 is damaged\n  remedy: copy it again" in output) == (2, True)


def test_a_rank_that_a_signal_stopped_alone_ends_the_other_with_85(start):
    ranks = start("stop")
    code, output = ranks.outcome(0, JOINED_S)
    assert code == 85, output
    assert f"{ranks.name(1)} has ended: stopped on SIGUSR1" in output


def test_ranks_that_end_in_good_order_at_different_times_are_not_lost(start):
    ranks = start("finish")
    assert ranks.outcome(0, JOINED_S) == (0, ranks.outcome(1, NAMED_S)[1])
    assert ranks.processes[1].returncode == 0


def test_a_rank_that_never_arrives_is_named_after_the_timeout(start):
    ranks = start("collective", timeout_s=TIMEOUT_S, ranks=[0])
    code, output = ranks.outcome(0, JOINED_S)
    assert code == 2, output
    assert (
        f"error: rank 1 of 2 never arrived (waited {TIMEOUT_S} s); there are {ranks.name(0)}\n  remedy: look for"
        in output
    )


def launch(launcher, folder, what):
    return subprocess.Popen(
        [*LAUNCHERS[launcher], str(WORKER), str(folder), what],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_launchers_stop_signal_lets_ranks_and_their_loader_processes_finish(tmp_path, launcher):
    process = launch(launcher, tmp_path, "train")
    try:
        wait_until(lambda: len(list(tmp_path.glob("rank-[01]"))) == 2, JOINED_S)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        code = process.wait(JOINED_S)
    finally:
        process.kill()
        process.wait()
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["SIGTERM", "SIGTERM"]
    assert code == {"torchrun": 1, "composer": 85}[launcher]


def test_a_launchers_signal_because_of_a_failed_rank_is_no_wish_to_be_started_again(tmp_path):
    process = launch("torchrun", tmp_path, "fail")
    try:
        process.wait(JOINED_S)
    finally:
        process.kill()
        process.wait()
    assert "has ended: shard 7 is damaged" in (tmp_path / "elsewhere").read_text()


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_killed_launcher_leaves_no_rank_and_no_loader_process(tmp_path, launcher):
    process = launch(launcher, tmp_path, "loaders")
    try:
        wait_until(lambda: len(list(tmp_path.glob("rank-[01]"))) == 2, JOINED_S)
        pids = [int(path.read_text()) for path in tmp_path.glob("rank-[01]")]
        loaders = [int(path.name.split("-")[1]) for path in tmp_path.glob("loader-*")]
        assert len(loaders) == 4
        assert all(is_alive(pid) for pid in pids + loaders)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids + loaders), 30)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
