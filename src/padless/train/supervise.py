"""What surrounds a run: the folder's lock, the stop signals, and ``status.json``, which says how it ended.

``torchrun`` turns every exit code into 1, so the code is in ``status.json`` too: 85 means "start me again".
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padless.errors import CheckpointError, PadlessError, Stopped, TrainingError
from padless.train.lock import RunLock, sees_holder
from padless.train.signals import StopSignals
from padless.train.status import RunState, read_status, write_status
from padless.train.world import World

_SEEN_WITHIN_S = 45.0  # a file server may show a new file to another machine that late


class Supervisor:
    """Keeps ``status.json`` up to date and stop signals in order while a run lasts.

    Args:
        folder: the run's.
        world: the ranks; only the first writes.
        signals: this rank's.
        lock: the folder's.
        trunk: of the run that this one is a branch of, where both last.
    """

    def __init__(
        self, folder: Path, world: World, signals: StopSignals, lock: RunLock, trunk: "Supervisor | None" = None
    ) -> None:
        self._folder, self._world, self._signals, self._lock, self._trunk = folder, world, signals, lock, trunk
        self._taking_over = threading.Lock()  # the presence thread may do it while the main thread does
        self._place: dict[str, Any] = {}
        self._agreed = False  # all ranks stop at the same step
        self.owns_folder = False

    def own(self, say: Callable[[str], None]) -> None:
        """Take the folder's lock; from here on ``status.json`` is this process's.

        Raises:
            CheckpointError: another process holds it.
        """
        self._lock.acquire(say)
        self.owns_folder = True

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._folder

    @property
    def lock_token(self) -> str:
        """What the first rank's lock has written into the folder; of no meaning on the others."""
        return self._lock.token

    def branch(self, folder: Path, lock: RunLock) -> "Supervisor":
        """Return the supervisor of a branch of this run, which has its signals."""
        return Supervisor(folder, self._world, self._signals, lock, trunk=self)

    def wish_to_stop(self) -> str | None:
        """Return the signal this rank got, or None."""
        return self._signals.requested

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold a stop signal back until the step under way is done and saved."""
        with self._signals.deferred():
            yield

    def stand_at(self, phase: str, clock_tokens: int, step: int, checkpoint: Path | None) -> None:
        """Note in ``status.json`` where the run stands, and its newest checkpoint."""
        self._place = {"phase": phase, "clock_tokens": clock_tokens, "step": step, "checkpoint": checkpoint}
        self.write("running")

    def stop_together(self, message: str) -> None:
        """End the run on all ranks, after the step at which they all learned of the signal.

        ``status.json`` is written before any rank ends: a launcher may kill the others as soon as one has.

        Raises:
            Stopped: always.
        """
        self._agree_to_stop(message)
        self._world.barrier()
        raise Stopped(message)

    def _agree_to_stop(self, message: str) -> None:
        self._agreed = True
        self.write("stopped", exit_code=Stopped.exit_code, message=message)
        if self._trunk is not None:
            self._trunk._agree_to_stop(message)

    def write(self, state: RunState, *, exit_code: int | None = None, message: str | None = None) -> None:
        """Write ``status.json``: how the run stands, with the last known place."""
        if self.owns_folder:
            write_status(self._folder, state, exit_code=exit_code, message=message, **self._place)

    def write_loss(self, line: str, exit_code: int) -> None:
        """Write that another rank is lost; called just before this process ends."""
        if self._trunk is not None:
            self._trunk.write_loss(line, exit_code)
        self._take_over()
        self.write("stopped" if exit_code == Stopped.exit_code else "failed", exit_code=exit_code, message=line)

    def end_with(self, error: BaseException) -> BaseException:
        """Write how the run ended, if the disk still takes it, and return the error it ends with.

        Launchers end all ranks with SIGTERM when one fails; that one's error is then the run's, not the signal.
        """
        if isinstance(error, Stopped) and self._agreed:
            return error
        if isinstance(error, Stopped):
            line = self._world.failure_elsewhere()
            if line is not None:
                error = TrainingError(line, "look for its own error in the output; the same command goes on")
        state: RunState = "stopped" if isinstance(error, Stopped) else "failed"
        cause = error.cause if isinstance(error, PadlessError) else f"{type(error).__name__}: {error}".splitlines()[0]
        message = str(error) if isinstance(error, Stopped) else cause
        with contextlib.suppress(OSError):
            self._take_over()
            self.write(state, exit_code=getattr(error, "exit_code", 1), message=message)
        return error

    def _take_over(self) -> None:
        """Have the folder where rank 0 was killed on this machine, so that ``status.json`` does not stay at "running".

        Its lock is free then. One that another start holds by now, and a status that rank 0 wrote at its end, stay.
        """
        with self._taking_over, contextlib.suppress(CheckpointError):
            if self.owns_folder or not self._world.succeeds_leader():
                return
            self._lock.acquire(lambda _: None, wait_s=1.0)
            status = read_status(self._folder)
            self.owns_folder = status is None or status.state == "running"
            if status is not None:
                names = ("phase", "clock_tokens", "step", "checkpoint")
                self._place = {name: getattr(status, name) for name in names}


@contextmanager
def supervised(folder: Path, world: World, say: Callable[[str], None]) -> Iterator[Supervisor]:
    """Hold the run folder's lock and catch stop signals; on the way out, write how the run ended.

    Raises:
        CheckpointError: another process is writing this run.
    """
    lock = RunLock(folder)
    signals = StopSignals()
    supervisor = Supervisor(folder, world, signals, lock)
    ended: BaseException | None = None
    try:
        signals.install()  # before the lock, which may be waited for
        _take_folder(supervisor, world, say)
        yield supervisor
        supervisor.write("finished", exit_code=0)
        signals.settle(0)
    except BaseException as error:
        signals.settle(getattr(error, "exit_code", 1))
        ended = supervisor.end_with(error)
        signals.settle(getattr(ended, "exit_code", 1))
        if ended is not error:
            raise ended from error
        raise
    finally:
        lock.release()
        world.close(ended)
        signals.uninstall()


@contextmanager
def supervised_branch(
    folder: Path, world: World, trunk: Supervisor, say: Callable[[str], None]
) -> Iterator[Supervisor]:
    """Hold a branch's folder while its trunk's is held: a lock and a ``status.json`` of its own, the trunk's signals.

    Raises:
        CheckpointError: another process is writing this branch.
    """
    lock = RunLock(folder)
    supervisor = trunk.branch(folder, lock)
    try:
        _take_folder(supervisor, world, say)
        yield supervisor
        supervisor.write("finished", exit_code=0)
    except BaseException as error:
        ended = supervisor.end_with(error)
        if ended is not error:
            raise ended from error
        raise
    finally:
        lock.release()
        world.when_a_rank_is_lost(trunk.write_loss)


def _take_folder(supervisor: Supervisor, world: World, say: Callable[[str], None]) -> None:
    if world.is_leader:
        supervisor.own(say)
    token = world.gather(supervisor.lock_token)[0]  # nobody goes on before the folder is ours
    _refuse_another_folder(supervisor.folder, token, world)
    world.when_a_rank_is_lost(supervisor.write_loss)
    supervisor.write("running")


def _refuse_another_folder(folder: Path, token: str, world: World) -> None:
    """Stop where a machine has a folder of its own under this path: it would miss the checkpoint at a phase's end.

    Raises:
        CheckpointError: on all ranks, with the machines.
    """
    sees = world.is_leader or sees_holder(folder, token, _SEEN_WITHIN_S)
    machines = world.gather((socket.gethostname(), sees))
    blind = {host for host, sees_it in machines if not sees_it}
    if blind:
        raise CheckpointError(
            f"{folder.absolute()} on {', '.join(sorted(blind))} is not the folder that rank 0 writes "
            f"on {machines[0][0]}",
            "set run.folder to a place that all machines share (NFS, Lustre); every rank reads checkpoints from it",
        )
