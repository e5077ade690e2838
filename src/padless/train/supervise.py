"""What surrounds a run: the folder's lock, the stop signals, and ``status.json``, which says how it ended.

``torchrun`` turns every exit code into 1, so the code is in ``status.json`` too: 85 means "start me again".
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padless.errors import PadlessError, Stopped
from padless.train.handover import StartState
from padless.train.lock import RunLock
from padless.train.signals import StopSignals
from padless.train.status import RunState, write_status
from padless.train.world import World


class Supervisor:
    """Keeps ``status.json`` up to date and stop signals in order while a run lasts.

    Args:
        folder: the run's.
        world: the ranks; only the first writes.
        signals: this rank's.
    """

    def __init__(self, folder: Path, world: World, signals: StopSignals) -> None:
        self._folder, self._world, self._signals = folder, world, signals
        self._place: dict[str, Any] = {}

    def wish_to_stop(self) -> str | None:
        """Return the signal this rank got, or None."""
        return self._signals.requested

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold a stop signal back until the step under way is done and saved."""
        with self._signals.deferred():
            yield

    def stand_at(self, phase: str, start: StartState) -> None:
        """Note in ``status.json`` where the run stands."""
        self._place = {
            "phase": phase,
            "clock_tokens": start.clock_tokens,
            "step": start.step,
            "checkpoint": start.origin if start.clock_tokens else None,
        }
        self.write("running")

    def write(self, state: RunState, *, exit_code: int | None = None, message: str | None = None) -> None:
        """Write ``status.json``: how the run stands, with the last known place."""
        if self._world.is_leader:
            write_status(self._folder, state, exit_code=exit_code, message=message, **self._place)

    def write_end(self, error: BaseException) -> None:
        """Write how the run ended, if the disk still takes it."""
        state: RunState = "stopped" if isinstance(error, Stopped) else "failed"
        cause = error.cause if isinstance(error, PadlessError) else f"{type(error).__name__}: {error}"
        message = str(error) if isinstance(error, Stopped) else cause
        with contextlib.suppress(OSError):
            self.write(state, exit_code=getattr(error, "exit_code", 1), message=message)


@contextmanager
def supervised(folder: Path, world: World, say: Callable[[str], None]) -> Iterator[Supervisor]:
    """Hold the run folder's lock and catch stop signals; on the way out, write how the run ended.

    Raises:
        CheckpointError: another process is writing this run.
    """
    lock = RunLock(folder)
    if world.is_leader:
        lock.acquire(say)
    signals = StopSignals()
    supervisor = Supervisor(folder, world, signals)
    ended: BaseException | None = None
    try:
        world.barrier()  # nobody goes on before the folder is ours
        signals.install()
        world.when_a_rank_is_lost(lambda line, code: supervisor.write("failed", exit_code=code, message=line))
        supervisor.write("running")
        yield supervisor
        supervisor.write("finished", exit_code=0)
    except BaseException as error:
        ended = error
        supervisor.write_end(error)
        raise
    finally:
        signals.uninstall()
        lock.release()
        world.close(ended)
