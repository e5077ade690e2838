"""Processes of this machine: which are alive, who dies with whom, and stop signals before a run. Needs no torch.

SIGKILL of ``torchrun`` or ``composer`` leaves their ranks alive, and a second start would be a second writer. So a rank
asks the kernel to be killed with the process that started it, and a loader process with its rank.

Stop signals end a process with code 85, "start me again", from its first moment on: at once while it is imported and
joins (:func:`end_on_stop_signals`), later through :class:`padless.train.signals.StopSignals`.

A measurement is a process of its own that knows nothing of a launcher: :func:`run_module`.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from padless.errors import Stopped, TrainingError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""By which a process takes itself for one of several ranks, and waits for the others."""
_PR_SET_PDEATHSIG = 1
_POLL_S = 1.0


def boot_id() -> str:
    """Return a name for this boot of this machine; containers on one kernel share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


def pid_space() -> str:
    """Return a name for the processes among which a process id means something: this boot, this PID namespace."""
    try:
        return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return boot_id()


def started_ticks(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; None if unknown or ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def has_ended(pid: int, ticks: int | None) -> bool:
    """Return whether the process that had ``pid`` and started at ``ticks`` is gone or a zombie; unknown is False."""
    if ticks is None or not Path("/proc/self/stat").exists():
        return False
    return started_ticks(pid) != ticks


def begin_rank() -> None:
    """Do what a training process does first: heed stop signals, die with its launcher, keep C++ frames off the output.

    Before torch is imported. Where a rank is lost, torch prints a page of frames of its store's connection for each
    other rank, as a warning, around the line that names the lost one; TORCH_CPP_LOG_LEVEL=WARNING brings it back.
    """
    end_on_stop_signals()
    die_with_launcher()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def die_with_launcher() -> None:
    """Have this rank killed when the launcher that started it ends; without RANK and LOCAL_RANK nothing happens.

    On Linux the kernel does it (it watches the thread that started the rank: the main thread in ``torchrun`` and
    ``composer``); elsewhere a thread looks every second. Called first thing, so that a launcher that ended before the
    call is missed only in the moment between.
    """
    if "RANK" in os.environ and "LOCAL_RANK" in os.environ:
        die_with(os.getppid())


def end_on_stop_signals() -> None:
    """Have a stop signal end this process at once with code 85: nothing has begun that could be lost."""
    for number in STOP_SIGNALS:
        signal.signal(number, end_before_the_run)


def end_before_the_run(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
    """End this process with code 85; the handler of stop signals until the run takes them over."""
    if os.environ.get("RANK", "0") == "0":
        os.write(
            2, f"stopped on {signal.Signals(number).name} before the run began; the same command starts it\n".encode()
        )
    os._exit(Stopped.exit_code)


@contextmanager
def holding_stop_signals() -> Iterator[None]:
    """Hold stop signals back, for an import that sets handlers of its own; one that came meanwhile ends the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        end_on_stop_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_loader_process(worker_id: int = 0) -> None:  # noqa: ARG001 - the signature of torch's worker_init_fn
    """Make a loader process die with its rank, at once, and leave stop signals to the rank.

    ``torchrun`` and schedulers signal whole process groups. A loader process that ended on SIGTERM would make the
    rank's next batch an error, in place of the checkpoint that the signal asks for. SIGTERM from the rank itself,
    which is how torch ends its loader processes, still ends it.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere nobody can be asked who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_on_sigterm_of, args=(parent,), daemon=True).start()
    die_with(parent)


def run_module(
    module: str, told: Mapping[str, Any], environment: Mapping[str, str], what: str, remedy: str
) -> dict[str, Any]:
    """Have a module do a job in a process of its own and return the JSON object that it prints last.

    Args:
        module: as behind ``python -m``; reads the job from its standard input.
        told: the job, which JSON can hold.
        environment: of the process, without a launcher's variables.
        what: failed, if it fails, in words.
        remedy: of that.

    Raises:
        TrainingError: it failed; says its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(told),
        env=without_launcher(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")][-1:] or ["no output"]
        raise TrainingError(f"{what} ended with code {done.returncode}: {last[0]}", remedy)
    return json.loads(done.stdout.strip().splitlines()[-1])


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a process is on its own, whatever started this one."""
    return {key: value for key, value in environment.items() if key not in LAUNCHER_VARIABLES}


def _end_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def die_with(parent: int) -> None:
    """Have this process killed when its parent, the process with this number, ends."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:  # it ended before the kernel knew of our wish
            os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
