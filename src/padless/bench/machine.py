"""The machine a bench runs on: what it is, one core of it, and how fast that core multiplies matrices."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_PACKAGES = ("torch", "transformers", "numpy")


@functools.cache
def describe_machine() -> dict[str, str]:
    """Return processor, software versions and the commit of this code, as far as they can be known."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"processor": _processor(), "python": platform.python_version(), **versions, "commit": _commit()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    extras = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([names[0] if names else platform.machine(), *extras])


def _commit() -> str:
    """Return the commit of the checkout this file is in, with ``+`` where it was changed, or ``unknown``."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def pin_to_one_core(core: int | None = None) -> None:
    """Keep this process, and what it starts, on one core; one torch thread.

    Args:
        core: which; None takes the first that this process may use.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if core is None else core})
    import torch

    torch.set_num_threads(1)


def least_busy_core(watch_s: float = 0.5) -> int | None:
    """Return the core, of those that this process may use, on which least ran for a moment; None if unknown."""
    before = _busy_ticks()
    time.sleep(watch_s)
    after = _busy_ticks()
    busy = {core: after[core] - before[core] for core in before.keys() & after.keys()}
    return min(busy, key=lambda core: (busy[core], core)) if busy else None


def _busy_ticks() -> dict[int, int]:
    """Return the clock ticks that each core this process may use was not idle, since boot."""
    if not hasattr(os, "sched_getaffinity"):
        return {}
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines if line.startswith("cpu")]
    ticks = {f"cpu{core}": core for core in os.sched_getaffinity(0)}
    # user nice system idle iowait irq softirq: all but the two that wait
    return {ticks[name]: sum(map(int, each)) - int(each[3]) - int(each[4]) for name, *each in fields if name in ticks}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds that this process spent on ``work``."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def matmul_ceiling_gflops(dtype_name: str = "bfloat16", repeats: int = 5) -> float:
    """Return the best GFLOP/s this core reaches on square matrix products of 1024, 2048 and 4096.

    Args:
        dtype_name: torch's name of the element type.
        repeats: tries at each size.
    """
    import torch

    dtype, best = getattr(torch, dtype_name), 0.0
    for size in (1024, 2048, 4096):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        out = torch.empty(size, size, dtype=dtype)
        torch.mm(a, b.t(), out=out)
        for _ in range(repeats):
            seconds = cpu_seconds(lambda a=a, b=b, out=out: torch.mm(a, b.t(), out=out))
            best = max(best, 2 * size**3 / seconds / 1e9)
    return best
