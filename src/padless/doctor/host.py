"""CPUs, memory, shared memory, open files and the temporary folder of this machine, or of the container around us."""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from padless.config.schema import Config
from padless.data.leftovers import SHARED_MEMORY
from padless.data.manifest import read_manifest
from padless.doctor.finding import Finding, mend, note, ok, readable_bytes
from padless.errors import DataError
from padless.model.count import count_parameters

_CGROUP = Path("/sys/fs/cgroup")
_ID_BYTES = 8  # Streaming keeps the order of a pass in shared memory, one int64 a block
_SMALL_BYTES = 16 << 20  # its states of shards, barriers and counters
_NCCL_BYTES = 1 << 30  # what NCCL is given where several GPUs of one machine talk through shared memory
_STATE_BYTES = 16  # a parameter: weight, gradient and two moments, fp32
_ORDER_BYTES = 50  # a block: what Streaming takes for a moment to shuffle a pass (28 to 50 measured)
_FEW_FILES, _ENOUGH_FILES = 256, 1024


def usable_cpus(cgroup: Path = _CGROUP) -> float:
    """Return the CPUs this process may use: its affinity, or the container's quota if that is less."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
        return count if quota == "max" else min(count, int(quota) / int(period))
    except (OSError, ValueError):
        return count


def usable_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the memory that can be had now: what the kernel calls available, or the container's limit if less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        return min(available, int((cgroup / "memory.max").read_text()))
    except (OSError, ValueError):
        return available


def look_at_cpus(threads: int, ranks: int, cpus: float, load: float) -> Iterator[Finding]:
    """Compare the threads of all ranks on this machine with its CPUs, and say whether others keep them busy.

    Args:
        threads: CPU threads a rank would use.
        ranks: ranks on this machine.
        cpus: usable CPUs.
        load: processes that ran or waited in the last minute, on average.
    """
    text = f"{cpus:g} usable, {ranks} x {threads} threads wanted, load {load:.1f}"
    wanted = threads * ranks
    if wanted > cpus:
        fitting = max(1, int(cpus // ranks))
        yield note("cpus", f"{text}; more threads than CPUs are slower: hardware.num_threads={fitting} fits")
    elif load > cpus:
        yield note("cpus", f"{text}; others keep them busy, a run will be slow")
    else:
        yield ok("cpus", text)


def look_at_memory(config: Config, ranks: int, gpus: int) -> Iterator[Finding]:
    """Compare available memory with weights, gradients and moments (CPU ranks) and the shuffling of a pass."""
    state = _STATE_BYTES * count_parameters(config.model).total
    on_gpu = gpus > 0 or config.hardware.device == "gpu"
    needed = state * (1 if on_gpu else ranks) + _ORDER_BYTES * largest_pass_blocks(config)
    available = usable_memory_bytes()
    text = f"{readable_bytes(available)} available, at least {readable_bytes(needed)} needed"
    if needed > available:
        yield mend("memory", text, "use a machine with more memory, fewer ranks on it, or a smaller model=")
    else:
        yield ok("memory", text)


def largest_pass_blocks(config: Config) -> int:
    """Return the blocks of the phase with most of them, over the streams that are prepared here."""
    return max((_phase_blocks(config, name) for name in config.phases), default=0)


def _phase_blocks(config: Config, phase_name: str) -> int:
    phase, total = config.phases[phase_name], 0
    for name in phase.streams:
        try:
            manifest = read_manifest(Path(config.data.streams[name].local))
            total += manifest.split(phase.max_seq_len, "train").num_blocks
        except DataError:
            continue  # the line of that stream says it
    return total


def look_at_shared_memory(config: Config, ranks: int, gpus: int, folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """Compare free shared memory with what Streaming and NCCL put there."""
    needed = _ID_BYTES * largest_pass_blocks(config) + _SMALL_BYTES
    if ranks > 1 and (gpus or config.hardware.device == "gpu"):
        needed += _NCCL_BYTES
    if not folder.is_dir():
        yield mend("shared memory", f"{folder} does not exist", f"mount -t tmpfs tmpfs {folder}")
        return
    facts = os.statvfs(folder)
    total, free = facts.f_frsize * facts.f_blocks, facts.f_frsize * facts.f_bavail
    text = f"{folder} has {readable_bytes(free)} free of {readable_bytes(total)}, about {readable_bytes(needed)} needed"
    if needed <= free:
        yield ok("shared memory", text)
        return
    gib = -(-(needed + total - free) // (1 << 30))
    yield mend(
        "shared memory",
        text,
        f"start the container with --shm-size={gib}g (docker's own is 64 MB), or mount -o remount,size={gib}g {folder}",
    )


def look_at_open_files() -> Iterator[Finding]:
    """Look at the number of files a process may hold open: shards, sockets of the ranks, pipes of the workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield open_files_line(soft, hard)


def open_files_line(soft: int, hard: int) -> Finding:
    """Return the line for the limits on open files."""
    unlimited = resource.RLIM_INFINITY
    text = f"{'unlimited' if soft == unlimited else soft} a process (ulimit -n)"
    if soft == unlimited or soft >= _ENOUGH_FILES:
        return ok("open files", text)
    may_raise = hard == unlimited or hard >= _ENOUGH_FILES
    remedy = "ulimit -n 65536" if may_raise else "raise the hard limit (limits.conf, or docker --ulimit nofile=65536)"
    if soft < _FEW_FILES:
        return mend("open files", text, remedy)
    return note("open files", f"{text}; many ranks or workers need more: {remedy}")


def look_at_temporary_folder() -> Iterator[Finding]:
    """Write a file where Streaming puts its locks."""
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"padless")
            file.flush()
    except OSError as error:
        yield mend("temporary folder", f"{folder}: {error.strerror}", "free some space there, or set TMPDIR elsewhere")
    else:
        yield ok("temporary folder", folder)
