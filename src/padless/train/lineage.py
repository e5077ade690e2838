"""``lineage.jsonl``: how a run came to be what it is, one line for each start, resume, rewind and change.

A line has event, clock, a detail in words and the time; starts and resumes also have ranks, hosts, versions, git state
and the content of each stream. Lines are only ever added, synced to disk each.
"""

import importlib.metadata
import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from padless.data.durable import append_line
from padless.data.json_file import read_lines
from padless.errors import CheckpointError
from padless.run_files import LINEAGE
from padless.train.status import read_status

_PACKAGES = ("padless", "torch", "mosaicml", "mosaicml-streaming", "transformers", "torch-optimi")
_FROM_CHECKPOINTS = ("resume", "rewind", "phase_end", "stopped")


def note(folder: Path, event: str, clock_tokens: int, detail: str, **facts: Any) -> None:
    """Append one line.

    Args:
        folder: the run's.
        event: start, branch, resume, ranks, settings, rewind, phase_end, stopped.
        clock_tokens: where the run stands.
        detail: what happened, in words.
        facts: more, as JSON.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"event": event, "clock_tokens": clock_tokens, "detail": detail, "time": now, **facts}
    append_line(folder / LINEAGE, json.dumps(line), sync=True)


def last_world_size(folder: Path) -> int | None:
    """Return the number of ranks of the last start or resume, None if there was none."""
    sizes = [line["world_size"] for line in read_lines(folder / LINEAGE) if type(line.get("world_size")) is int]
    return sizes[-1] if sizes else None


def last_saved_clock(folder: Path) -> int:
    """Return the highest clock at which lineage or status name a checkpoint of this run; 0 if neither does."""
    clocks = [
        line.get("clock_tokens") for line in read_lines(folder / LINEAGE) if line.get("event") in _FROM_CHECKPOINTS
    ]
    try:
        status = read_status(folder)
    except CheckpointError:
        status = None
    if status is not None and status.checkpoint is not None:
        clocks.append(status.clock_tokens)
    return max((clock for clock in clocks if type(clock) is int), default=0)


def environment() -> dict[str, Any]:
    """Return Python, package versions, git state and device of this process."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"python": platform.python_version(), "versions": versions, "git": _git_commit(), "device": _device()}


def _device() -> str:
    """Return the accelerator's name, or the CPU's kind."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU ({platform.machine()})"


def _git_commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return described.stdout.strip() or None
