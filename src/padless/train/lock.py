"""One writer per run folder: ``run.lock``, held while the run's leader lives.

The kernel's record lock on the file decides wherever it reaches: it is freed when the process ends, however it ends,
and a forked loader process does not inherit it. The file's content says who holds it and carries a heartbeat, which
decides between machines whose kernels do not share the lock, and on file systems without locks. Closing any
descriptor of the file frees a process's lock, so nothing else may open it.

    the kernel lock is another's                  refused, after a short wait: ranks may just be ending
    it is ours, the last holder was on this boot  that process has ended: taken over
    it is ours or there are none, the last holder was elsewhere
                                                  its heartbeat is watched: if it moves, refused; if not, taken over
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from padless.errors import CheckpointError
from padless.processes import boot_id, started_ticks
from padless.run_files import LOCK

_WIDTH = 1024  # bytes of the content: always the same, so that one write replaces it
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """Who wrote a lock file."""

    host: str
    pid: int
    boot_id: str
    process_started_ticks: int | None
    started_at: str
    token: str  # drawn at each acquisition

    def __str__(self) -> str:
        """Return the process as messages name it."""
        return f"process {self.pid} on host {self.host}"


class RunLock:
    """The lock of one run folder.

    Args:
        folder: the run's folder; made if it is not there.
        beat_s: seconds between heartbeats.
        still_s: seconds without a heartbeat after which a holder on another machine counts as ended.
        on_lost: called, in the heartbeat's thread, when another process has taken the folder over (this one was
            frozen for longer than ``still_s``). The default ends the process with exit code 2.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat_s: float = 5.0,
        still_s: float = 45.0,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._path = folder / LOCK
        self._beat_s, self._still_s = beat_s, still_s
        self._on_lost = on_lost or _end
        self._file: int | None = None
        self._locked: bool | None = False  # by the kernel; None where the file system has no locks
        self._released = threading.Event()
        self._thread: threading.Thread | None = None
        self._me = _this_process()

    def acquire(self, say: Callable[[str], None], wait_s: float = 10.0) -> None:
        """Take the lock, from a dead holder too, and keep it by a heartbeat until :meth:`release`.

        Args:
            say: prints one line.
            wait_s: how long to wait for a live holder to end.

        Raises:
            CheckpointError: a live process holds the folder, or the folder cannot be written.
        """
        try:
            from_elsewhere = self._wait_for_it(say, wait_s)
            self._beat(0)
            if from_elsewhere or self._locked is None:
                self._refuse_a_race()
        except OSError as error:
            self._close()
            raise CheckpointError(
                f"{self._path}: the run folder cannot be written ({error.strerror})",
                "make it writable, or choose another run.folder",
            ) from error
        except CheckpointError:
            self._close()
            raise
        self._released.clear()
        self._thread = threading.Thread(target=self._keep, name="run lock", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What this process writes into the lock file, and no other."""
        return self._me.token

    def release(self) -> None:
        """Give the folder back; without a lock nothing happens."""
        if self._thread is None:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(OSError):
            self._write(None)
        self._close()

    def _wait_for_it(self, say: Callable[[str], None], wait_s: float) -> bool:
        """Return once the folder is free: whether it was taken over from a holder on another machine."""
        refuse_at = time.monotonic() + wait_s
        waiting = False
        watched: bytes | None = None
        still_at = 0.0
        while True:
            self._open()
            content = self._read()
            holder = _parse(content)
            if self._locked is False:
                if time.monotonic() >= refuse_at:
                    raise self._refusal(holder)
                if not waiting:
                    say(f"{self._path}: held by {holder or 'another process'}; waiting {wait_s:g} s for it to end")
                waiting = True
            elif holder is None and not content.strip():  # new, or given back
                return False
            elif self._locked and holder is not None and holder.boot_id == self._me.boot_id:
                say(f"took over the run folder from {holder}, which has ended")
                return False
            elif watched is None:
                watched, still_at = content, time.monotonic() + self._still_s
                who = holder or "an unknown process"
                say(f"{self._path}: {who} has it; its heartbeat is watched for {self._still_s:g} s")
            elif content != watched:
                raise self._refusal(holder)
            elif time.monotonic() >= still_at:
                say(f"took over the run folder from {holder or 'an unknown process'}, whose heartbeat stands still")
                return True
            self._close()
            time.sleep(min(0.25, self._beat_s))

    def _refusal(self, holder: Holder | None) -> CheckpointError:
        who = f"{holder} since {holder.started_at}" if holder else "another process"
        return CheckpointError(
            f"{self._path}: the run folder is in use by {who}",
            "wait for that run or stop it, or choose another run.name",
        )

    def _refuse_a_race(self) -> None:
        """Where only the heartbeat decides, two may find a folder free at once: the one that wrote last has it."""
        time.sleep(self._beat_s)
        holder = self._owner()
        if holder is not None and holder.token != self._me.token:
            raise self._refusal(holder)

    def _keep(self) -> None:
        number = 0
        while not self._released.wait(self._beat_s):
            number += 1
            with contextlib.suppress(OSError):  # a file server that is away for a moment is not the end of the run
                holder = self._owner()
                if holder is not None and holder.token != self._me.token:
                    self._on_lost(
                        f"{self._path}: the run folder was taken over by {holder}; this process has it no longer"
                    )
                    return
                self._beat(number)

    def _beat(self, number: int) -> None:
        self._write({**vars(self._me), "heartbeat": number, "heartbeat_at": _now()})

    def _open(self) -> None:
        """Open the file and try the kernel's lock."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locked = True
        except OSError as error:
            if error.errno not in (*_HELD, *_NO_LOCKS):
                raise
            self._locked = False if error.errno in _HELD else None

    def _owner(self) -> Holder | None:
        """Return who wrote the file last."""
        if self._locked is None:  # a file server shows others' writes to a new descriptor; there is no lock to lose
            self._close()
            self._open()
        return _parse(self._read())

    def _read(self) -> bytes:
        return os.pread(self._descriptor(), _WIDTH, 0)

    def _write(self, content: dict[str, Any] | None) -> None:
        line = json.dumps(content).encode() if content else b""
        os.pwrite(self._descriptor(), line.ljust(_WIDTH - 1) + b"\n", 0)
        os.fsync(self._descriptor())

    def _descriptor(self) -> int:
        assert self._file is not None
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def sees_holder(folder: Path, token: str, wait_s: float) -> bool:
    """Return whether the lock file in ``folder``, as this machine sees it, was written by the holder with ``token``.

    Not for the process that holds the lock, which would lose it.

    Args:
        folder: the run's folder.
        token: the holder's.
        wait_s: how long another machine's write may take to be seen here.
    """
    until = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(OSError):
            holder = _parse((folder / LOCK).read_bytes()[:_WIDTH])
            if holder is not None and holder.token == token:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.25)


def _parse(content: bytes) -> Holder | None:
    try:
        tree = json.loads(content)
        return Holder(**{name: tree[name] for name in Holder.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _this_process() -> Holder:
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, boot_id(), started_ticks(pid), _now(), secrets.token_hex(8))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _end(line: str) -> None:
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    os._exit(2)
