"""A run's checkpoints by short names: ``<run>@latest``, ``<run>/<phase>@<tokens>``. Nothing is opened here.

The run is its folder, or its name under ``runs/``; tokens are its clock in full (``1_351_680``) or as
``padless checkpoints`` prints them (``1.352M``).
"""

import os
from pathlib import Path

from padless.checkpoint.listing import CheckpointRow, list_checkpoints
from padless.checkpoint.names import FOLDER
from padless.errors import CheckpointError, ConfigError
from padless.units import approximate_tokens, parse_tokens

RUNS = Path("runs")
LATEST = "latest"
_SHOWN = 6


def checkpoint_by_name(name: str) -> Path | None:
    """Return the checkpoint that a short name stands for; None if it does not name one of a run that is here.

    Raises:
        CheckpointError: there is such a run, and it has no such whole checkpoint.
    """
    head, separator, wanted = name.rpartition("@")
    if not separator or not head or not wanted:
        return None
    if wanted == LATEST:
        run = _run(Path(head))
        return None if run is None else _newest(run, name)
    run = _run(Path(head).parent)
    return None if run is None else _at_clock(run, Path(head).name, wanted, name)


def short_name(row: CheckpointRow) -> str:
    """Return the part of a checkpoint's short name after its run: ``<phase>@<tokens>``."""
    return f"{row.phase}@{row.clock_tokens:_}"


def whole_checkpoints(run_folder: Path) -> list[CheckpointRow]:
    """Return the checkpoints that are whole by their sizes, oldest first.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    return [row for row in list_checkpoints(run_folder, read_files=False) if row.is_whole]


def _run(named: Path) -> Path | None:
    return next((folder for folder in (named, RUNS / named) if os.path.isdir(folder / FOLDER)), None)  # noqa: PTH112


def _newest(run: Path, name: str) -> Path:
    rows = whole_checkpoints(run)
    if not rows:
        raise CheckpointError(
            f"{name}: {run} has no whole checkpoint", f"look with `padless checkpoints {run}`, or choose another run"
        )
    return rows[-1].path


def _at_clock(run: Path, phase: str, wanted: str, name: str) -> Path:
    rows = whole_checkpoints(run)
    of_phase = [row for row in rows if row.phase == phase]
    exact = [row for row in of_phase if row.clock_tokens == _tokens(wanted)]
    found = exact or [row for row in of_phase if approximate_tokens(row.clock_tokens) == wanted]
    if len(found) == 1:
        return found[0].path
    shown = ", ".join(short_name(row) for row in (found or of_phase or rows)[-_SHOWN:]) or "none"
    problem = f"has {len(found)} whole checkpoints of this name" if found else "has no such whole checkpoint"
    raise CheckpointError(f"{name}: {run} {problem}", f"give one of its newest: {shown}")


def _tokens(text: str) -> int | None:
    try:
        return parse_tokens(text)
    except ConfigError:
        return None
