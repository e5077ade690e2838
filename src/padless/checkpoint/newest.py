"""Which checkpoint a resume takes, after putting the folder in order."""

import os
from collections.abc import Callable
from pathlib import Path

from padless.checkpoint.names import BAD, DELETING, FOLDER, Named, find
from padless.checkpoint.sidecar import problem_of_pair
from padless.data.durable import sync_folder
from padless.errors import CheckpointError


def newest_checkpoint(run_folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that verifies, over all phases; None if there never was one.

    Bad ones are set aside as ``<name>.bad`` and each is said in a line; so is what a kill left of a save or a deletion.
    Files that padless did not name are left alone. Call on one rank only.

    Raises:
        CheckpointError: there are checkpoints, but none is usable, or the folder cannot be read or put in order. A save
            that a kill cut off is no checkpoint.
    """
    put_in_order(run_folder, say)
    found = find(run_folder)
    for stranger in found.strangers:
        say(f"{stranger} left alone: it is not named <phase>/<phase>-<tokens>tok.pt as checkpoints of this run are")
    was_one = bool(found.strangers) or any(path.name.rpartition(BAD)[0].endswith(".json") for path in found.set_aside)
    for named in found.checkpoints:
        _, problem = problem_of_pair(named, read_file=True)
        if problem is None:
            return named.path
        was_one = was_one or not named.is_unfinished
        say(f"checkpoint {named.path} set aside as {_set_aside(named)}: {problem}")
    if was_one:
        raise CheckpointError(
            f"{run_folder / FOLDER} has checkpoints, but none is whole",
            "restore one with its .json from a backup, or choose another run.name to start over",
        )
    return None


def put_in_order(run_folder: Path, say: Callable[[str], None]) -> None:
    """Remove what a kill left of a save, and undo a deletion that a kill cut off before the file was gone.

    Raises:
        CheckpointError: the folder cannot be read or changed.
    """
    found = find(run_folder)
    for path in found.partial:
        _change(path, path.unlink)
        say(f"{path} removed: a kill cut its save off")
    for path in found.deleting:
        sidecar = path.with_name(path.name.removesuffix(DELETING))
        if os.path.lexists(sidecar.with_suffix(".pt")) and not os.path.lexists(sidecar):
            _change(path, lambda path=path, sidecar=sidecar: path.replace(sidecar))
            say(f"checkpoint {sidecar.with_suffix('.pt')} restored: a kill cut its deletion off")
        else:
            _change(path, path.unlink)


def _set_aside(named: Named) -> str:
    """Rename file and sidecar to the first free ``.bad``, ``.bad.2``, ...; return the file's new name."""
    there = [path for path in (named.path, named.sidecar) if os.path.lexists(path)]
    number, ending = 1, BAD
    while any(os.path.lexists(path.with_name(path.name + ending)) for path in (named.path, named.sidecar)):
        number += 1
        ending = f"{BAD}.{number}"
    for path in there:
        _change(path, lambda path=path: path.replace(path.with_name(path.name + ending)))
    sync_folder(named.path.parent)
    return (there[0].name if there else named.path.name) + ending


def _change(path: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be renamed or removed: {error.strerror}", f"make {path.parent} writable"
        ) from error
