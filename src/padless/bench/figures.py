"""What a run left behind: the lines of its metrics, and its last checkpoint's sidecar."""

import json
from pathlib import Path
from typing import Any


def read_figures(run_folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the run's metrics, in order; empty if there are none yet."""
    path = run_folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def read_steps(run_folder: Path) -> list[dict[str, Any]]:
    """Return the lines of steps, not those of evaluations."""
    return [line for line in read_figures(run_folder) if "loss" in line]


def clock_of(run_folder: Path) -> int:
    """Return the clock of the last step in the metrics, 0 if there is none."""
    steps = read_steps(run_folder)
    return int(steps[-1]["tokens"]) if steps else 0


def newest_whole(run_folder: Path) -> tuple[int, Path | None]:
    """Return clock and file of the newest checkpoint that has its sidecar; 0 and None if there is none."""
    found: list[tuple[int, Path]] = []
    for sidecar in run_folder.glob("checkpoints/*/*tok.json"):
        if sidecar.with_suffix(".pt").exists():
            found.append((int(json.loads(sidecar.read_text())["clock_tokens"]), sidecar.with_suffix(".pt")))
    return max(found, default=(0, None), key=lambda each: each[0])
