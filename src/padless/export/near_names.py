"""What somebody meant who named a run, or one of its checkpoints, nearly right. Nothing is opened here."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from padless.checkpoint.named import LATEST, RUNS, short_name, whole_checkpoints
from padless.checkpoint.names import FOLDER
from padless.errors import CheckpointError

_CUTOFF = 0.7  # difflib's ratio from which a run's name counts as misspelt


def refuse_run_folder(path: Path) -> None:
    """Refuse the folder of a run, or one in its ``checkpoints/``, where a checkpoint or a model is meant.

    Raises:
        CheckpointError: it is one.
    """
    run = _run_around(path)
    if run is not None and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} is a folder of a run, not a checkpoint or a model",
            f"give a checkpoint of it, such as {_nearest_of(str(run), str(path))}; `padless checkpoints {run}` "
            "lists them",
        )


def refuse_near_checkpoint(name: str) -> None:
    """Refuse a name that begins with a run that is here, but names none of its checkpoints.

    Raises:
        CheckpointError: it is one.
    """
    run = _run_called(name)
    if run is not None:
        raise CheckpointError(f"{name} names no checkpoint of the run {run}", f"did you mean {_nearest_of(run, name)}?")


def nearest_run(name: str) -> str | None:
    """Return the run whose name is most like ``name``, None if none is."""
    found = difflib.get_close_matches(name, [*_runs_in(RUNS, ""), *_runs_beside(Path(name))], n=1, cutoff=_CUTOFF)
    return found[0] if found else None


def nearest_checkpoint(name: str) -> str | None:
    """Return the name of a checkpoint that is most like ``name``, None if no run has a name like it."""
    head = name.rpartition("@")[0] or name
    run = _run_called(name) or _run_called(f"{name}@") or nearest_run(head)
    return None if run is None else _nearest_of(run, name)


def _nearest_of(run: str, name: str) -> str:
    folder = folder_of_run(run)
    try:
        names = [] if folder is None else [f"{run}/{short_name(row)}" for row in whole_checkpoints(folder)]
    except CheckpointError:
        names = []
    latest = f"{run}@{LATEST}"
    return next(iter(difflib.get_close_matches(name, [latest, *names], n=1)), latest)


def _run_called(name: str) -> str | None:
    """Return the run that ``name`` begins with: what stands before ``@``, with a phase or without."""
    head, separator, _ = name.rpartition("@")
    names = (head, head.rpartition("/")[0]) if separator else (name,)
    return next((each for each in names if each and folder_of_run(each) is not None), None)


def folder_of_run(run: str) -> Path | None:
    """Return the folder of a run that is given by it, or by its name under ``runs/``."""
    return next((each for each in (Path(run), RUNS / run) if _is_run(each)), None)


def _is_run(folder: Path) -> bool:
    return os.path.isdir(folder / FOLDER)  # noqa: PTH112 - a name too long for a path is no path, where pathlib raises


def _run_around(path: Path) -> Path | None:
    """Return the run whose folder ``path`` is, or in whose ``checkpoints/`` it is a folder."""
    if _is_run(path):
        return path
    return next((each.parent for each in (path, path.parent) if each.name == FOLDER and path.is_dir()), None)


def _runs_beside(path: Path) -> Iterator[str]:
    return _runs_in(path.parent, f"{path.parent}/") if path.name != str(path) else iter(())


def _runs_in(folder: Path, prefix: str) -> Iterator[str]:
    try:
        found = sorted(each.name for each in folder.iterdir() if _is_run(each))
    except OSError:
        found = []
    return (prefix + name for name in found)
