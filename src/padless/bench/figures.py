"""What a run left behind: the lines of its metrics, and its last checkpoint's sidecar."""

import json
from pathlib import Path
from typing import Any

from padless.data.json_file import parse_lines, read_lines

TAIL_BYTES = 1 << 14  # more than an evaluation's and a step's line


def read_figures(run_folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the run's metrics, in order; empty if there are none yet."""
    return list(read_lines(run_folder / "metrics.jsonl"))


def read_steps(run_folder: Path) -> list[dict[str, Any]]:
    """Return the lines of steps, not those of evaluations."""
    return [line for line in read_figures(run_folder) if "loss" in line]


def clock_of(run_folder: Path) -> int:
    """Return the clock of the last step in the metrics, 0 if there is none; reads only their end."""
    path = run_folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read().decode("utf-8", errors="replace")
    steps = [line for line in parse_lines(tail) if "loss" in line]
    return int(steps[-1]["tokens"]) if steps else 0


def newest_whole(run_folder: Path) -> tuple[int, Path | None]:
    """Return clock and file of the newest checkpoint that has its sidecar; 0 and None if there is none."""
    found: list[tuple[int, Path]] = []
    for sidecar in run_folder.glob("checkpoints/*/*tok.json"):
        if sidecar.with_suffix(".pt").exists():
            found.append((int(json.loads(sidecar.read_text())["clock_tokens"]), sidecar.with_suffix(".pt")))
    return max(found, default=(0, None), key=lambda each: each[0])
