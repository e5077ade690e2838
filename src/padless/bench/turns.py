"""Implementations take turns, each in a process of its own that stays alive: noise then touches all of them alike."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from padless.bench.machine import least_busy_core
from padless.errors import ConfigError, TrainingError
from padless.processes import without_launcher

ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    # No memory goes back to the system, so that no page is faulted in twice.
    "keeping": {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": "0"},
}
_UNSET = ("LD_PRELOAD", "MALLOC_ARENA_MAX", *ALLOCATORS["keeping"])


class Worker:
    """A process that does one job, batch by batch (:mod:`padless.bench.worker`).

    Args:
        name: of its log.
        job: what it is told first: ``job`` names one of :data:`padless.bench.jobs.JOBS`, the rest are its settings.
        folder: of the logs.
        allocator: one of :data:`ALLOCATORS`.
        core: it runs on; None takes the first.

    Raises:
        ConfigError: no such allocator.
        TrainingError: from any call, if the process ends.
    """

    def __init__(
        self, name: str, job: Mapping[str, Any], folder: Path, allocator: str = "default", core: int | None = None
    ) -> None:
        if allocator not in ALLOCATORS:
            raise ConfigError(f"allocator={allocator} is unknown", f"choose one of {', '.join(ALLOCATORS)}")
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._log = name, folder / f"{name}.log"
        inherited = {key: value for key, value in without_launcher(os.environ).items() if key not in _UNSET}
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "padless.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**inherited, **threads, **ALLOCATORS[allocator]},
                text=True,
                bufsize=1,
            )
        self._job = {**job, "core": core}

    def __enter__(self) -> "Worker":
        self._tell(json.dumps(self._job))
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                self._pipe(pipe).close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def do(self, number: int) -> dict[str, float]:
        """Have batch ``number`` done; return ``cpu_s``, ``wall_s``, ``peak_bytes`` and what the job adds."""
        return self._tell(str(number))

    def clear_peak(self) -> None:
        """Have the peak of its memory forgotten."""
        self._tell("clear")

    def _tell(self, line: str) -> dict[str, Any]:
        try:
            self._pipe(self._process.stdin).write(line + "\n")
            reply = self._pipe(self._process.stdout).readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            raise self._ended()
        return json.loads(reply)

    def _ended(self) -> TrainingError:
        code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)] or lines
        last = said[-1] if said else "no output"
        what = "was killed, for want of memory perhaps" if code < 0 else "failed"
        return TrainingError(f"the process of {self._name} {what} (code {code}): {last}", f"read {self._log}")

    @staticmethod
    def _pipe(pipe: Any) -> TextIO:
        assert pipe is not None
        return pipe


@contextmanager
def workers(
    jobs: Mapping[str, Mapping[str, Any]], folder: Path, allocator: str = "default"
) -> Iterator[dict[str, Worker]]:
    """Start a worker for each job, by name, all on the core that is least busy now; they end with the context."""
    core = least_busy_core()
    with ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, job, folder, allocator, core)) for name, job in jobs.items()}


def take_turns(here: Mapping[str, Worker], numbers: range) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Yield each batch's number and what every worker measured on it; who begins changes from batch to batch."""
    names = list(here)
    for number in numbers:
        first = number % len(names)
        spent = {name: here[name].do(number) for name in names[first:] + names[:first]}
        yield number, {name: spent[name] for name in names}
