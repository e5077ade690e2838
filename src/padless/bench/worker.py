"""The process of one implementation: pinned to one core, told over a pipe which batch to do, and when.

    parent: one line of JSON with the job, then a line each: 3 for batch 3, clear to forget the memory's peak
    worker: one line of JSON each: {"cpu_s": ..., "wall_s": ..., "peak_bytes": ..., what the job adds}

Only the batch itself is timed: its tensors are made before. Everything else that writes to standard output goes to
standard error, which the parent keeps in a log.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from padless.bench.machine import pin_to_one_core

Job = Callable[[int], Callable[[], dict[str, float]]]
"""Prepares batch ``number`` and returns the work that is timed, which returns facts about it."""


def main() -> None:
    """Serve until the parent closes the pipe."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline())
    pin_to_one_core(told.pop("core", None))
    job = _jobs()[told.pop("job")](**told)
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        order = line.strip()
        replies.write(json.dumps(_clear() if order == "clear" else _timed(job(int(order)))) + "\n")


def _jobs() -> dict[str, Callable[..., Job]]:
    from padless.bench import jobs

    return jobs.JOBS


def _timed(work: Callable[[], dict[str, float]]) -> dict[str, Any]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    facts = work()
    spent = {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}
    return {**facts, **spent, "peak_bytes": peak_resident_bytes()}


def _clear() -> dict[str, bool]:
    """Forget the peak of the resident memory so far; where the kernel does not allow it, the start counts too."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return {"cleared": False}
    return {"cleared": True}


def peak_resident_bytes() -> int:
    """Return the most memory this process had resident since its start, or since the peak was cleared."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
