"""Named moments of a run at which a kill is most likely to do harm, for ``padless bench chaos``.

The program says where it is with :func:`reached`. Unless the environment asks for a kill there, that is one dictionary
look-up. ``PADLESS_KILL_AT=<event>:<nth time>:<rank>:<target>`` sends SIGKILL, from inside, at exactly that moment to
``rank`` (this process), ``ranks`` (all ranks of this launcher) or ``launcher`` (the process that started the ranks).
"""

import os
import signal
from pathlib import Path

VARIABLE = "PADLESS_KILL_AT"
EVENTS = (
    "step",  # a step's gradients are known, the optimizer has not stepped
    "save_inside",  # a checkpoint's bytes are written under another name, not renamed
    "save_before_sidecar",  # the checkpoint has its name, its sidecar is not there
    "save_after",  # both are there
    "retention",  # an old checkpoint is being deleted
    "evaluation",  # validation has computed a block
    "handover",  # a phase has ended, the next has not begun
    "pass_border",  # the data begins a new pass
    "export",  # the export is written under another name, not renamed
)
TARGETS = ("rank", "ranks", "launcher")

_counts: dict[str, int] = {}


def reached(event: str) -> None:
    """Say that the program is at ``event``, one of :data:`EVENTS`; kills where the environment asks for it."""
    wish = os.environ.get(VARIABLE)
    if wish is None:
        return
    name, times, rank, target = wish.split(":")
    if name != event or rank != os.environ.get("RANK", "0"):
        return
    _counts[event] = _counts.get(event, 0) + 1
    if _counts[event] == int(times):
        _kill(target)


def _kill(target: str) -> None:
    if target == "launcher":
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()  # a rank that outlives its launcher here would be a fault of ours
    if target == "ranks":
        for pid in _children(os.getppid()):
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Return the processes that ``parent`` started (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found
