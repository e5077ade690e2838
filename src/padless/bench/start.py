"""One start of ``train.py``: its processes, what it prints, when its first new step comes, and how it is killed.

All processes of a start carry a mark in their environment, so that none is overlooked: not one in a session of its own
(torchrun), not one whose parent is dead.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from padless.bench.figures import clock_of
from padless.config.compose import YAML_FOLDER
from padless.errors import TrainingError
from padless.events import VARIABLE
from padless.processes import without_launcher

MARK = "PADLESS_BENCH_START"
TRAIN = YAML_FOLDER.parent / "train.py"
POLL_S = 0.02
_LOG_LINES = 12
_BEGUN = re.compile(r"^phase '[^']*': from ([\d_]+) to", re.MULTILINE)
_DONE = "all phases are done"
_FIRST_BATCH = re.compile(r"first batch after ([\d.]+) s")
_KILLED = re.compile(r"exitcode: -9|exit code -9|exited with code -9|\(SIGKILL\)")


def launch_command(launcher: str, processes: int) -> list[str]:
    """Return the words before ``train.py``.

    Args:
        launcher: python (one process only), torchrun or composer.
        processes: ranks.
    """
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    if launcher == "composer":
        return [str(Path(sys.executable).with_name("composer")), "-n", str(processes)]
    return [sys.executable]


@dataclass
class Sighting:
    """What has been seen of a start so far. Times are seconds since it began."""

    resumed_tokens: int | None = None  # clock its first phase began at
    first_step_s: float | None = None
    first_batch_s: float | None = None  # as the run printed it
    phases_done: bool = False  # nothing was left to train


@dataclass
class Start:
    """A running start; make it with :func:`begin`."""

    process: subprocess.Popen[bytes]
    mark: str
    run_folder: Path
    log: Path
    launcher: str
    began_s: float
    seen: Sighting = field(default_factory=Sighting)

    def look(self) -> Sighting:
        """Look at its output and metrics once."""
        seen, text = self.seen, self.log.read_text(errors="replace")
        begun = _BEGUN.search(text)
        if begun is not None and seen.resumed_tokens is None:
            seen.resumed_tokens = int(begun[1])
        if seen.first_step_s is None and self._has_new_step():
            seen.first_step_s = time.monotonic() - self.began_s
        if seen.first_batch_s is None and (found := _FIRST_BATCH.search(text)):
            seen.first_batch_s = float(found[1])
        seen.phases_done = seen.phases_done or _DONE in text
        return seen

    def _has_new_step(self) -> bool:
        resumed = self.seen.resumed_tokens
        return resumed is not None and clock_of(self.run_folder) > resumed

    def has_ended(self) -> bool:
        """Whether the process that was started (the launcher, if there is one) is gone."""
        return self.process.poll() is not None

    def was_killed(self) -> bool:
        """Whether it ended because one of its processes got SIGKILL, by its code or its launcher's words."""
        if self.process.returncode == -signal.SIGKILL:
            return True
        return self.process.returncode != 0 and _KILLED.search(self.log.read_text(errors="replace")) is not None

    def alive(self) -> dict[int, str]:
        """Return its living processes and the rank each has in its environment ("" for the launcher)."""
        return marked_processes(self.mark)

    def rank_pids(self) -> dict[int, int]:
        """Return the pids of its ranks, by rank."""
        if self.launcher == "python":
            return {0: self.process.pid}
        return {int(rank): pid for pid, rank in self.alive().items() if rank and _parent(pid) == self.process.pid}

    def kill(self, target: str, rank: int) -> None:
        """SIGKILL one rank, all ranks, or the launcher, from outside."""
        ranks = self.rank_pids()
        pids = {"rank": [ranks[rank]] if rank in ranks else [], "ranks": list(ranks.values())}
        for pid in pids.get(target, [self.process.pid]):
            _kill(pid)

    def clear(self, within_s: float) -> tuple[float, dict[int, str]]:
        """Wait until all its processes are gone, and kill those that are not.

        Returns:
            The seconds it took, and the survivors (pid to rank) that had to be killed.
        """
        began_s = time.monotonic()
        while (left := self.alive()) and time.monotonic() - began_s < within_s:
            self.process.poll()  # take note of its end, so that it does not stay a zombie
            time.sleep(POLL_S)
        took_s = time.monotonic() - began_s
        for pid in left:
            _kill(pid)
        self.process.wait()
        return took_s, left


def begin(
    arguments: list[str], run_folder: Path, log: Path, launcher: str, processes: int, kill_at: str | None
) -> Start:
    """Start ``train.py``.

    Args:
        arguments: Hydra overrides.
        run_folder: the run's, whose metrics are watched.
        log: gets all output.
        launcher: python, torchrun or composer.
        processes: ranks.
        kill_at: wish for :mod:`padless.events`, or None.
    """
    mark = secrets.token_hex(8)
    environment = {key: value for key, value in without_launcher(os.environ).items() if key != VARIABLE}
    environment |= {MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if kill_at is not None:
        environment[VARIABLE] = kill_at
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*launch_command(launcher, processes), str(TRAIN), *arguments],
            cwd=TRAIN.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Start(process, mark, run_folder, log, launcher, time.monotonic())


def run_failed(start: Start, what: str) -> TrainingError:
    """Return the error for a start that should have ended orderly, with the line of its output that says why."""
    lines = [line for line in start.log.read_text(errors="replace").splitlines() if line.strip()][-_LOG_LINES:]
    last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
    return TrainingError(f"{what} failed (code {start.process.returncode}): {last.strip()}", f"read {start.log}")


def marked_processes(mark: str) -> dict[int, str]:
    """Return the living processes with this mark in their environment, and their RANK (Linux)."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment:
            rank = next((word[5:].decode() for word in environment if word.startswith(b"RANK=")), "")
            found[int(entry.name)] = rank
    return found


def _parent(pid: int) -> int | None:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
