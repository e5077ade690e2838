"""What runs that were killed left in shared memory: who owns which names, and how they are removed.

Streaming's shared memory (``/dev/shm/<six digits>_*``) and file locks (``<six digits>_*_filelock`` in the temporary
folder) outlive a SIGKILL of a whole process group. Beside them stands an owner file, locked for the life of the process
that drew the digits (``shared_memory.py``). The lock is a POSIX record lock: the kernel frees it on death however that
came, forked loader workers do not hold it, and processes of other containers see it if they see the memory. An owner
file that can be locked is a dead run's; only names under its digits are removed, and only files of this user.
"""

import atexit
import fcntl
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_OWNER_NAME = re.compile(r"padless-(\d+)-(\d{6})\.owner")
_FILE_LOCKS = ("barrier_filelock", "cache_filelock")
_MAX_OWNER_BYTES = 1 << 14

_held: dict[Path, tuple[int, int]] = {}  # owner file -> (process, handle); a POSIX lock goes with any closed handle


@dataclass(frozen=True)
class Leftover:
    """What one dead run left."""

    owner: Path
    prefix: int
    process: int | None  # its number on its host, in its pid namespace; None where it died before writing it
    host: str
    start_time: float  # seconds since 1970
    files: tuple[Path, ...]  # shared memory and file locks
    bytes: int


def hold(prefix: int, folder: Path = SHARED_MEMORY) -> bool:
    """Take the digits ``prefix`` for the life of this process; False where they are taken.

    Does nothing, and returns True, on platforms without ``/dev/shm``.
    """
    if not folder.is_dir():
        return True
    path = folder / f"padless-{os.getuid()}-{prefix:06}.owner"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino != path.stat().st_ino:
            raise FileNotFoundError(path)
    except OSError:  # another start took it for a leftover between the two calls, and removes it
        os.close(handle)
        return False
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.time(), "temp": tempfile.gettempdir()}
    os.write(handle, json.dumps(facts).encode())
    if not _held:
        atexit.register(_release_all)
    _held[path] = (os.getpid(), handle)
    return True


def release(prefix: int, folder: Path = SHARED_MEMORY) -> None:
    """Give back digits that :func:`hold` took and that nothing was made under."""
    _release(folder / f"padless-{os.getuid()}-{prefix:06}.owner", ())


def _release_all() -> None:
    for path in list(_held):
        _release(path, _file_locks(_prefix_of(path), tempfile.gettempdir()))


def _release(path: Path, file_locks: Sequence[Path]) -> None:
    process, handle = _held.pop(path, (None, -1))
    if process != os.getpid():  # a forked child: the file is its parent's
        return
    for file in (*file_locks, path):
        _unlink_own(file)
    os.close(handle)


def find_leftovers(folder: Path = SHARED_MEMORY) -> list[Leftover]:
    """Return what dead runs of this user left on this host; nothing is changed."""
    found = []
    for path in _owner_files(folder):
        with _locked(path) as handle:
            if handle is not None:
                found.append(_leftover(path, handle))
    return found


def clean_leftovers(say: Callable[[str], None], folder: Path = SHARED_MEMORY) -> list[Leftover]:
    """Remove what dead runs of this user left on this host, and say so in a line if there was any.

    Live runs, other users, and users of Streaming other than padless are left alone.
    """
    removed = []
    for path in _owner_files(folder):
        with _locked(path) as handle:
            if handle is None:
                continue
            leftover = _leftover(path, handle)
            for file in leftover.files:
                _unlink_own(file)
            _unlink_own(path)
            removed.append(leftover)
    files = sum(len(leftover.files) for leftover in removed)
    if files:
        runs = "a killed run" if len(removed) == 1 else f"{len(removed)} killed runs or phases"
        size = sum(leftover.bytes for leftover in removed)
        say(f"removed what {runs} left in shared memory ({files} file{'s' * (files > 1)}, {size:_} bytes)")
    return removed


def _owner_files(folder: Path) -> list[Path]:
    """Return the owner files of this user, without those this process holds (closing one would free its lock)."""
    if not folder.is_dir():
        return []
    paths = []
    for entry in os.scandir(folder):
        match = _OWNER_NAME.fullmatch(entry.name)
        if match and int(match[1]) == os.getuid() and Path(entry.path) not in _held:
            paths.append(Path(entry.path))
    return sorted(paths)


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Lock an owner file whose process is dead; None if it is alive, gone, or not a file of this user."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        found = os.fstat(handle)
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and found.st_nlink == 1
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            own = False
        yield handle if own else None
    finally:
        os.close(handle)


def _prefix_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _leftover(path: Path, handle: int) -> Leftover:
    prefix = _prefix_of(path)
    facts = _read_facts(handle)
    memory = [file for file in sorted(path.parent.glob(f"{prefix:06}_*")) if _is_own(file)]
    temp = str(facts.get("temp", ""))
    locks = [file for file in _file_locks(prefix, temp) if _is_own(file)] if temp else []
    size = sum(file.lstat().st_size for file in memory)
    process = facts.get("pid")
    start = facts.get("start")
    return Leftover(
        path,
        prefix,
        process if isinstance(process, int) else None,
        str(facts.get("host", "")),
        float(start) if isinstance(start, int | float) else path.stat().st_mtime,
        (*memory, *locks),
        size,
    )


def _read_facts(handle: int) -> dict[str, object]:
    try:
        facts = json.loads(os.pread(handle, _MAX_OWNER_BYTES, 0))
    except ValueError:
        return {}  # killed before it was written: no shared memory has been made then
    return facts if isinstance(facts, dict) else {}


def _file_locks(prefix: int, temp: str) -> list[Path]:
    return [Path(temp) / f"{prefix:06}_{name}" for name in _FILE_LOCKS]


def _is_own(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()


def _unlink_own(path: Path) -> None:
    if _is_own(path):
        with suppress(FileNotFoundError):
            path.unlink()
