"""Checks that may hang or crash, each in a process of its own, started early and waited for with a limit."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from padless.doctor.finding import Finding, mend, ok

LIMIT_S = 45.0
_IMPORT = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"


class Probe:
    """A Python process under way. Leaving the ``with`` block ends it and all it started.

    Args:
        arguments: what follows ``python`` on its command line.
        limit_s: seconds from now after which it counts as hanging.
    """

    def __init__(self, arguments: Sequence[str], limit_s: float = LIMIT_S) -> None:
        self._limit_s, self._began_s = limit_s, time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    @property
    def process_id(self) -> int:
        """Number of the process and of its group."""
        return self._process.pid

    def failure(self) -> str | None:
        """Wait for the end and return None, or what went wrong: the last line that it wrote."""
        left_s = self._began_s + self._limit_s - time.monotonic()
        try:
            code = self._process.wait(max(0.1, left_s))
        except subprocess.TimeoutExpired:
            return f"no answer within {self._limit_s:.0f} s"
        if code == 0:
            return None
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        ending = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return " ".join(lines[-1].split()) if lines else ending


def start_import(packages: Sequence[str]) -> Probe:
    """Start importing packages in another process."""
    return Probe(["-W", "ignore", "-c", _IMPORT, *packages])


def start_loopback(backend: str, ranks: int) -> Probe:
    """Start :mod:`padless.doctor.loopback`."""
    return Probe(["-W", "ignore", "-m", "padless.doctor.loopback", backend, str(ranks)])


def look_at_imports(probe: Probe, packages: Sequence[str]) -> Iterator[Finding]:
    """Say whether the packages that a run imports can be imported together."""
    failure = probe.failure()
    if failure is None:
        yield ok("imports", ", ".join(packages))
    else:
        yield mend(
            "imports", failure, f"python -c 'import {', '.join(packages)}' shows all of it; reinstall what it names"
        )


def look_at_loopback(probe: Probe, backend: str, ranks: int, remedy: str) -> Iterator[Finding]:
    """Say whether ranks on this machine could sum their numbers."""
    failure = probe.failure()
    if failure is None:
        yield ok(backend, f"{ranks} {'ranks' if ranks > 1 else 'rank'} on this machine summed their numbers")
    else:
        yield mend(backend, failure, remedy)
