"""Forks ranks from one process that has imported everything, so that a test need not wait for imports rank by rank.

A line of JSON on standard input starts a rank: {"folder", "what", "timeout_s", "environment", "output"}. Its pid is
printed; what it prints goes to ``output``, and when it has ended its code (-9 after SIGKILL) is in ``output``.code.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from rank_worker import run_rank

from padless.processes import die_with_launcher

outputs: dict[int, str] = {}


def begin(job: dict) -> None:
    """Fork one rank; it ends as a process of its own would, through the interpreter's exit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        os.environ.update(job["environment"])
        die_with_launcher()
        sys.exit(run_rank(Path(job["folder"]), job["what"], job["timeout_s"]))
    outputs[pid] = job["output"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    print(pid, flush=True)


def note_codes(number: int, frame: FrameType | None) -> None:
    """Write down the codes of the ranks that have ended."""
    for pid in list(outputs):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = Path(f"{outputs.pop(pid)}.code")
            code.with_suffix(".partial").write_text(str(os.waitstatus_to_exitcode(status)))
            code.with_suffix(".partial").replace(code)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, note_codes)
    for line in sys.stdin:
        begin(json.loads(line))
