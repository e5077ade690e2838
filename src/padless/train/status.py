"""``status.json``: how the run stands, for launch scripts: ``torchrun`` turns every exit code into 1.

running               a process works on it, or was killed without a word (then ``run.lock`` is free)
stopped, exit code 85 on a signal, with a checkpoint: start the same command again
failed,  exit code    1 our fault, 2 the user's to mend: starting again meets the same error
finished, exit code 0
"""

import json
import os
import socket
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from padless.data.durable import write_durably
from padless.errors import CheckpointError
from padless.run_files import STATUS

RunState = Literal["running", "stopped", "finished", "failed"]

_writing = threading.Lock()  # the presence thread may write while the main thread does


@dataclass(frozen=True)
class Status:
    """One state of a run."""

    state: RunState
    exit_code: int | None  # None while running
    clock_tokens: int | None
    step: int | None
    phase: str | None
    checkpoint: str | None  # the newest whole one
    message: str | None  # one line
    host: str
    pid: int
    time: str


def write_status(
    folder: Path,
    state: RunState,
    *,
    exit_code: int | None = None,
    clock_tokens: int | None = None,
    step: int | None = None,
    phase: str | None = None,
    checkpoint: str | Path | None = None,
    message: str | None = None,
) -> None:
    """Replace the status of the run in ``folder``, durably.

    Args:
        folder: the run's folder.
        state: how it stands.
        exit_code: what the process ends with; None while it runs.
        clock_tokens: the clock, nominal tokens.
        step: optimizer steps done.
        phase: name of the phase.
        checkpoint: the newest whole checkpoint.
        message: why, one line.
    """
    saved = str(checkpoint) if checkpoint is not None else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    status = Status(state, exit_code, clock_tokens, step, phase, saved, message, socket.gethostname(), os.getpid(), now)
    with _writing:
        write_durably(folder / STATUS, (json.dumps(asdict(status), indent=1) + "\n").encode())


def read_status(folder: Path) -> Status | None:
    """Return the status of the run in ``folder``; None if none was written yet.

    Raises:
        CheckpointError: the file is not one that padless wrote.
    """
    path = folder / STATUS
    try:
        tree = json.loads(path.read_bytes())
        status = Status(**tree)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "delete it; the next start writes a new one") from error
    if status.state not in get_args(RunState):
        raise CheckpointError(f"{path} has the unknown state {status.state!r}", "use the version that wrote it")
    return status
