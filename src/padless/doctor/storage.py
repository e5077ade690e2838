"""The place of the run folder: writable, with locks and syncs that work, and with room for the checkpoints kept."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from padless.config.schema import Config
from padless.data.durable import sync_folder
from padless.doctor.finding import Finding, mend, note, ok, readable_bytes
from padless.model.count import count_parameters

_CHECKPOINT_BYTES = 12  # a parameter: weight and two moments, fp32
_EXPORT_BYTES = 4
_SKEW_S = 30.0
_TRY_LOCK = (
    "import fcntl, sys\n"
    "file = open(sys.argv[1], 'r+b')\n"
    "try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError: sys.exit(7)\n"
)
_REFUSED = 7
_LOCAL_DISK = "set run.folder to a local disk, or to a mount with locks (NFS: version 4, without nolock)"


def run_folder(config: Config) -> Path:
    """Return where the run would live."""
    return Path(config.run.folder) / config.run.name


def nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def look_at_run_folder(config: Config) -> Iterator[Finding]:
    """Write, sync and lock a file where the run folder is or would be made; nothing is left behind."""
    folder = nearest_existing(run_folder(config))
    text = str(run_folder(config)) if run_folder(config).exists() else f"{run_folder(config)} (to be made)"
    if not folder.is_dir():
        yield mend("run folder", f"{folder} is not a folder", "choose another run.folder or run.name")
        return
    try:
        place = Path(tempfile.mkdtemp(prefix=".padless-doctor-", dir=folder))
    except OSError as error:
        remedy = "make it writable, or set run.folder to a place that is"
        yield mend("run folder", f"nothing can be written in {folder}: {error.strerror}", remedy)
        return
    try:
        yield ok("run folder", f"{text} can be written")
        yield from _look_at_file_system(place / "try", folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _look_at_file_system(path: Path, folder: Path) -> Iterator[Finding]:
    try:
        path.write_bytes(b"padless")
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        yield mend("syncing", f"the file system of {folder} cannot sync: {error.strerror}", _LOCAL_DISK)
    else:
        yield ok("syncing", "files and folders are synced to disk")
    yield lock_line(path, folder)
    skew_s = path.stat().st_mtime - time.time()
    if abs(skew_s) > _SKEW_S:
        yield note("clock", f"the clock of {folder} is {skew_s:+.0f} s off this machine's: times of files will mislead")
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def lock_line(path: Path, folder: Path) -> Finding:
    """Lock a file and let another process try to: it has to be refused."""
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            code = subprocess.run(
                [sys.executable, "-S", "-E", "-c", _TRY_LOCK, str(path)], capture_output=True, check=False, timeout=10
            ).returncode
    except OSError as error:
        return mend("locks", f"the file system of {folder} has no locks: {error.strerror}", _LOCAL_DISK)
    except subprocess.TimeoutExpired:
        return mend("locks", f"the file system of {folder} does not answer a lock within 10 s", _LOCAL_DISK)
    if code != _REFUSED:
        return mend("locks", f"the file system of {folder} gives one lock to two processes", _LOCAL_DISK)
    return ok("locks", "a second process is refused")


def look_at_disk(config: Config) -> Iterator[Finding]:
    """Compare free space with the checkpoints that the settings keep, and the export."""
    folder = nearest_existing(run_folder(config))
    each = _CHECKPOINT_BYTES * count_parameters(config.model).total
    kept = kept_checkpoints(config)
    there = _bytes_of_checkpoints(run_folder(config))
    needed = max(each, (kept + 1) * each - there)  # + 1: a new one is written before an old one is deleted
    needed += _EXPORT_BYTES * count_parameters(config.model).total if config.export.enabled else 0
    free = shutil.disk_usage(folder).free
    text = (
        f"{readable_bytes(free)} free at {folder}; {kept} checkpoints of {readable_bytes(each)} are kept, "
        f"{readable_bytes(needed)} still to be written"
    )
    if needed <= free:
        yield ok("disk", text)
        return
    remedy = "free some space, set run.folder elsewhere, or keep fewer (run.keep_newest_checkpoints, save_every_tokens)"
    yield mend("disk", text, remedy)


def kept_checkpoints(config: Config) -> int:
    """Return how many checkpoints lie on disk at the end: phase ends, those kept at intervals, and the newest."""
    newest = config.run.keep_newest_checkpoints
    total = 0
    for phase in config.phases.values():
        interval = phase.save_every_tokens if newest is None else phase.keep_every_tokens
        total += 1 + (0 if interval is None else (phase.tokens - 1) // interval)
    return total + (newest or 0)


def _bytes_of_checkpoints(folder: Path) -> int:
    total = 0
    for path in (folder / "checkpoints").glob("*/*.pt"):
        with contextlib.suppress(OSError):  # deleted by a run in progress
            total += path.stat().st_size
    return total
