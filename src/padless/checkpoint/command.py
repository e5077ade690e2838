"""``padless checkpoints RUN``: what a run has on disk, what state it is in, and which one a resume would take."""

import dataclasses
import json
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from padless.checkpoint.listing import DELETION_UNFINISHED, SIZE_OK, CheckpointRow, list_checkpoints
from padless.checkpoint.names import FOLDER, find
from padless.checkpoint.newest import Outlook, foresee
from padless.config.load import unknown_word
from padless.data.json_file import parse_object
from padless.data.progress import Progress
from padless.errors import CheckpointError, ConfigError
from padless.run_files import CONFIG, METRICS
from padless.saying import say_on
from padless.units import approximate_bytes, approximate_tokens

_RUNS = Path("runs")
_VERIFY = ("size", "hash")
_SHOWN_RUNS = 8
_EVAL_LOSS = b'"eval_loss"'  # in the metrics, of a validation


def checkpoints_command(arguments: list[str], as_json: bool) -> None:
    """List the checkpoints of a run: ``RUN [verify=size|hash]``.

    Args:
        arguments: the run's folder or its name under ``runs/``; ``verify=hash`` reads every file, ``size`` (the
            default) compares sizes only.
        as_json: print one JSON object instead of a table.

    Raises:
        ConfigError: an argument is not understood.
        CheckpointError: there is no such run, or its folder cannot be read.
    """
    name, verify = _parse(arguments)
    run_folder = _find_run(name)
    rows = _list(run_folder, read_files=verify == "hash")
    if as_json:
        measured = clocks_measured(run_folder)
        outlook = outlook_of(run_folder, rows)
        found = {
            "ok": True,
            "run": str(run_folder),
            "checkpoints": [_plain(row, measured) for row in rows],
            "resume": None if outlook.taken is None else str(outlook.taken),
            "refusal": None if outlook.refusal is None else outlook.refusal.cause,
        }
        sys.stdout.write(json.dumps(found) + "\n")
        return
    print_checkpoints(run_folder, rows, Console())


def clocks_measured(run_folder: Path) -> frozenset[int] | None:
    """Return the clocks at which a run made a validation, None where its ``metrics.jsonl`` is not there to say so."""
    try:
        with (run_folder / METRICS).open("rb") as file:
            lines = [parse_object(line) or {} for line in file if _EVAL_LOSS in line]  # one in a hundred or fewer
    except OSError:
        return None
    return frozenset(line["tokens"] for line in lines if type(line.get("tokens")) is int)


def outlook_of(run_folder: Path, rows: Sequence[CheckpointRow]) -> Outlook:
    """Return what a resume would do, by its own rule, from what was seen of each checkpoint."""
    problems = {row.path: None if row.can_be_taken else row.state for row in rows}
    return foresee(run_folder, find(run_folder), lambda named: problems.get(named.path, "it appeared just now"))


def print_checkpoints(run_folder: Path, rows: Sequence[CheckpointRow], console: Console) -> None:
    """Print a line a checkpoint by clock, what is wrong with any, and which one a resume would take.

    A validation loss stands only where it was measured, as far as the run's metrics are there to tell.
    """
    measured = clocks_measured(run_folder)
    if rows:
        table = Table(title=escape(f"{run_folder}: checkpoints"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading in ("phase", "tokens", "step", "LR", "eval loss", "size", "state", "kept because"):
            is_number = heading not in ("phase", "state", "kept because")
            table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
        for row in rows:
            table.add_row(*map(escape, _cells(row, measured)))
        console.print(table, highlight=False)
    for row in rows:
        word, separator, reason = row.state.partition(": ")
        if separator:
            say_on(console)(f"{row.path.name} is {word}: {reason}")
    for line in _resume_lines(run_folder, rows):
        say_on(console)(line)


def _is_own(row: CheckpointRow, measured: Collection[int] | None) -> bool:
    """Return whether the loss in a row is of its own weights, not of an earlier validation's."""
    return measured is None or row.clock_tokens in measured


def _cells(row: CheckpointRow, measured: Collection[int] | None) -> tuple[str, ...]:
    loss = row.eval_loss if _is_own(row, measured) else None
    return (
        row.phase,
        approximate_tokens(row.clock_tokens),
        "" if row.step is None else f"{row.step:,}",
        "" if row.lr is None else f"{row.lr:.3g}",
        "" if loss is None else f"{loss:.4f}",
        approximate_bytes(row.size_bytes),
        row.state.partition(":")[0],
        row.kept or "",
    )


def _resume_lines(run_folder: Path, rows: Sequence[CheckpointRow]) -> list[str]:
    outlook = outlook_of(run_folder, rows)
    if outlook.refusal is not None:
        return [f"a resume would stop with an error: {outlook.refusal.cause}", f"  remedy: {outlook.refusal.remedy}"]
    if outlook.taken is None:
        why = "has no checkpoint, only a save that a kill cut off" if rows else "has no checkpoint"
        return [f"a resume would start from the beginning: {run_folder} {why}"]
    row = next(row for row in rows if row.path == outlook.taken)
    note = {
        SIZE_OK: "; only sizes were compared, verify=hash reads the files",
        DELETION_UNFINISHED: "; its deletion, which a kill cut off, would be undone",
    }.get(row.state, "")
    return [f"a resume would take {row.path.relative_to(run_folder)} ({row.clock_tokens:_} tokens{note})"]


def _list(run_folder: Path, read_files: bool) -> list[CheckpointRow]:
    if not read_files:
        return list_checkpoints(run_folder, read_files=False)
    total = sum(row.size_bytes for row in list_checkpoints(run_folder, read_files=False) if row.can_be_taken)
    done = 0
    with Progress(Console(stderr=True), "reading", total) as progress:

        def add(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            progress.show(done)

        return list_checkpoints(run_folder, read_files=True, on_bytes=add)


def _plain(row: CheckpointRow, measured: Collection[int] | None) -> dict[str, object]:
    """Return a row as JSON has it: no infinite numbers, the path as text."""
    loss = row.eval_loss if _is_own(row, measured) else None
    values = {**dataclasses.asdict(row), "eval_loss": loss, "path": str(row.path)}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _parse(arguments: Sequence[str]) -> tuple[str, str]:
    remedy = "write: padless checkpoints <run folder or name> [verify=size|hash]"
    names, verify = [], "size"
    for text in arguments:
        key, separator, value = text.partition("=")
        if key == "verify" and separator:
            verify = value
        elif separator and not any(path.exists() for path in (Path(text), _RUNS / text)):
            raise unknown_word(text, ["verify"], remedy)
        else:
            names.append(text)
    if verify not in _VERIFY:
        raise ConfigError(f"verify={verify} is not one of {', '.join(_VERIFY)}", remedy)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} runs given ({', '.join(names) or 'none'}), one is needed", remedy)
    return names[0], verify


def _find_run(name: str) -> Path:
    given = Path(name)
    for folder in (given, _RUNS / name):
        if _is_run(folder):
            return folder
    near = sorted({path for parent in (given.parent, given, _RUNS) for path in _runs_in(parent)})
    shown = ", ".join(str(path) for path in near[:_SHOWN_RUNS])
    more = f" and {len(near) - _SHOWN_RUNS} more" if len(near) > _SHOWN_RUNS else ""
    what = "is not the folder of a run" if given.exists() else "is no folder, and no run under runs/ has this name"
    raise CheckpointError(
        f"{name} {what}", f"give one of {shown}{more}" if near else "give the folder of a run, as run.folder/run.name"
    )


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / FOLDER).is_dir()


def _runs_in(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if _is_run(path)]
    except OSError:
        return []
