"""Stop signals: SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) all mean "checkpoint, then end with code 85: start me again".

    first signal, training     its name is kept; the loop asks for it after each step
    first signal, elsewhere    ``Stopped`` is raised in the main thread
    second signal              the process ends at once with code 85; the last checkpoint is whole
    before the run             the process ends at once with code 85 (``padless.processes``)
    after the run              how it ended stands; a second signal ends the process at once with the run's code

A launcher passes on what a scheduler or a terminal has sent to all processes already, so signals within
``REPEAT_S`` of the first are the same wish. The second signal is counted by a thread: it also works while the main
thread sits in a collective, where Python runs no handler.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from padless.errors import Stopped
from padless.processes import STOP_SIGNALS, end_before_the_run

EXIT_CODE = Stopped.exit_code
REPEAT_S = 3.0


class StopSignals:
    """The stop signals of this process.

    Args:
        repeat_s: signals within this many seconds of the first are the same wish.
    """

    def __init__(self, repeat_s: float = REPEAT_S) -> None:
        self._repeat_s = repeat_s
        self._requested: str | None = None
        self._deferred = False
        self._settled: int | None = None
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: socket.socket | None = None
        self._wakeup_before = -1

    @property
    def requested(self) -> str | None:
        """Name of the signal that asked for a stop, or None."""
        return self._requested

    def install(self) -> None:
        """Take the signals over. After Composer's import, which sets handlers of its own; only in the main thread."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._pid = os.getpid()
        reader, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._count, args=(reader,), name="stop signals", daemon=True).start()
        os.register_at_fork(after_in_child=self._forget_in_child)
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def uninstall(self) -> None:
        """Put the handlers of before back, or where they belong to the time before a run: let the process end in peace.

        A launcher ends all ranks with SIGTERM as soon as one has ended; that must not become this one's exit code.
        """
        for number, handler in self._before.items():
            after = signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN
            signal.signal(number, after if handler is end_before_the_run else handler)
        self._before = {}
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._wakeup.close()  # ends the counting thread
            self._wakeup = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a first signal is only kept: whoever loops asks for :attr:`requested`, and again afterwards."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    def raise_if_requested(self) -> None:
        """Raise what a signal asked for while it was deferred.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._requested is not None:
            raise Stopped(f"stopped on {self._requested}")

    def settle(self, exit_code: int) -> None:
        """From here on the run has ended: a signal no longer changes how, a second one only ends the process at once.

        Args:
            exit_code: what the run ended with.
        """
        self._settled = exit_code

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        if os.getpid() != self._pid or self._requested is not None or self._settled is not None:
            return  # a loader process, the same wish again, or too late; the second one is the thread's
        self._requested = signal.Signals(number).name
        if not self._deferred:
            self.raise_if_requested()
        if os.environ.get("RANK", "0") == "0":
            _write(f"{self._requested}: a checkpoint after this step, then the end; again: the end at once\n")

    def _count(self, reader: socket.socket) -> None:
        first_at: float | None = None
        with reader:
            while numbers := reader.recv(64):
                for number in numbers:
                    if number not in STOP_SIGNALS:
                        continue
                    if first_at is None:
                        first_at = time.monotonic()
                    elif time.monotonic() - first_at >= self._repeat_s:
                        _write(f"{signal.Signals(number).name} again: ended at once; the last checkpoint is whole\n")
                        os._exit(EXIT_CODE if self._settled is None else self._settled)

    def _forget_in_child(self) -> None:
        """A forked loader process must not report its own signals to this process."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)


def _write(line: str) -> None:
    os.write(2, line.encode())
