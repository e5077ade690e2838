"""One measurement in a process of its own, on one core: JSON in, JSON out.

The process is ``python -m padless.bench.apart``; it gets the name of a function and its keyword arguments on standard
input, pins itself to a core, and calls it. What else it prints goes to a log.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from padless.bench.machine import pin_to_one_core
from padless.errors import TrainingError
from padless.processes import without_launcher

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def measure_apart(function: str, log: Path, **settings: Any) -> dict[str, Any]:
    """Return what a function of a new process returns.

    Args:
        function: ``package.module:name``; returns what JSON can hold.
        log: gets what the process prints.
        settings: its keyword arguments, which JSON can hold.

    Raises:
        TrainingError: the process fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "padless.bench.apart"],
            input=json.dumps({"function": function, "settings": settings}).encode(),
            stdout=subprocess.PIPE,
            stderr=output,
            env=without_launcher(os.environ) | _ONE_THREAD,
            check=False,
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "no output"
        raise TrainingError(f"the process of {function} failed (code {done.returncode}): {last}", f"read {log}")
    return json.loads(done.stdout)


def in_turns(names: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Yield repeat and name, all names in each repeat; who begins changes from repeat to repeat."""
    for repeat in range(repeats):
        first = repeat % len(names)
        yield from ((repeat, name) for name in [*names[first:], *names[:first]])


def main() -> None:
    """Do what standard input says."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    pin_to_one_core()
    told = json.load(sys.stdin)
    module, _, name = told["function"].partition(":")
    result = getattr(importlib.import_module(module), name)(**told["settings"])
    reply.write(json.dumps(result))
    reply.flush()


if __name__ == "__main__":
    main()
