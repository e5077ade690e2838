"""A run's checkpoints by short names: ``<run>@latest``, ``<run>/<phase>@<tokens>``. Nothing is opened here.

The run is its folder, or its name under ``runs/``; tokens are its clock in full (``1_351_680``) or as
``padless checkpoints`` prints them (``1.352M``).
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from padless.checkpoint.listing import CheckpointRow, list_checkpoints
from padless.checkpoint.names import FOLDER
from padless.errors import CheckpointError, ConfigError
from padless.units import approximate_tokens, parse_tokens

RUNS = Path("runs")
LATEST = "latest"
_SHOWN = 6
_NEAR = 0.02  # of a clock: a number of tokens this close is taken for it
_ALIKE = 0.8  # difflib's ratio from which a clock counts as misspelt


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
    near = None if found else _nearest(wanted, of_phase or rows)
    hint = "" if near is None else f"did you mean {Path(name).parent / short_name(near)}? Else "
    raise CheckpointError(f"{name}: {run} {problem}", f"{hint}give one of its newest: {shown}")


def _nearest(wanted: str, rows: Sequence[CheckpointRow]) -> CheckpointRow | None:
    """Return the checkpoint whose clock is most like what was written, as a number or else by its digits."""
    tokens = _tokens(wanted)
    if tokens is not None and rows:
        near = min(rows, key=lambda row: abs(row.clock_tokens - tokens))
        if abs(near.clock_tokens - tokens) <= _NEAR * near.clock_tokens:
            return near
    written = {text: row for row in rows for text in (str(row.clock_tokens), approximate_tokens(row.clock_tokens))}
    found = difflib.get_close_matches(wanted.replace("_", ""), written, n=1, cutoff=_ALIKE)
    return written[found[0]] if found else None


def _tokens(text: str) -> int | None:
    try:
        return parse_tokens(text)
    except ConfigError:
        return None
