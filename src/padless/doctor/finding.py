"""One line of the doctor's report, and the guard that turns whatever a check raises into such a line."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from padless.errors import PadlessError

State = Literal["ok", "note", "mend"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``note`` where a run would start and the user may want to know; ``mend`` where it would not.
        found: what was found, one line.
        remedy: what to do about it, one line; only for ``mend``.
    """

    name: str
    state: State
    found: str
    remedy: str | None = None


Look = Callable[[], Iterable[Finding]]


def ok(name: str, found: str) -> Finding:
    """Return a line that asks nothing of the user."""
    return Finding(name, "ok", found)


def note(name: str, found: str) -> Finding:
    """Return a line that the user may want to know."""
    return Finding(name, "note", found)


def mend(name: str, found: str, remedy: str) -> Finding:
    """Return a line that keeps a run from starting or ending well."""
    return Finding(name, "mend", found, remedy)


def isolated(name: str, look: Look) -> Iterator[Finding]:
    """Yield what ``look`` finds; an exception in it becomes a line to mend, so that the checks after it still run."""
    try:
        yield from look()
    except PadlessError as error:
        yield mend(name, error.cause, error.remedy)
    except Exception as error:  # noqa: BLE001  (a fault of this check or of the machine; both are findings)
        text = " ".join(str(error).split())
        yield mend(name, f"the check failed: {type(error).__name__}: {text}", "mend what it names, then look again")


def readable_bytes(count: float) -> str:
    """Return a number of bytes for people: 67_108_864 -> "64 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
