"""Which checkpoint a resume takes; where none is whole, whether a run may begin; and what is done to the folder.

A kill can cut off one save, the newest, and a first start must survive that. Anything else that is not whole was a
checkpoint once, and a run that had one never starts over by itself.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from padless.checkpoint.names import BAD, DELETING, FOLDER, Found, Named, find, plain_path
from padless.checkpoint.sidecar import problem_of_pair
from padless.data.durable import sync_folder
from padless.errors import CheckpointError

_MOST_CUT_OFF = 1  # saves that a kill can have cut off
_RESTORE = "restore one with its .json from a backup, or choose another run.name to start over"


@dataclass(frozen=True)
class Outlook:
    """What the next start of a run does with its checkpoints.

    Attributes:
        taken: the checkpoint it goes on from; None without one.
        bad: those with a problem that are met on the way there, newest first.
        refusal: why it does not start at all; None if it does, from ``taken`` or from the beginning.
        changes_nothing: the refusal leaves every file as it is.
    """

    taken: Path | None
    bad: tuple[tuple[Named, str], ...]
    refusal: CheckpointError | None = None
    changes_nothing: bool = False


def foresee(run_folder: Path, found: Found, problem_of: Callable[[Named], str | None]) -> Outlook:
    """Return what the next start will do, without changing anything.

    Args:
        run_folder: the run's.
        found: what lies in its ``checkpoints/``.
        problem_of: what keeps a checkpoint from being whole; asked from the newest on, up to the first that is.
    """
    bad: list[tuple[Named, str]] = []
    for named in found.checkpoints:
        problem = problem_of(named)
        if problem is None:
            return Outlook(named.path, tuple(bad))
        bad.append((named, problem))
    none_is_whole = f"{run_folder / FOLDER} has checkpoints, but none is whole"
    lacking = len(found.without_sidecar)
    was_lost = any(not named.has_sidecar and not named.is_unfinished for named, _ in bad)
    if was_lost or lacking > _MOST_CUT_OFF:
        files = "1 file lacks its sidecar" if lacking == 1 else f"{lacking} files lack their sidecars"
        refusal = CheckpointError(
            f"{none_is_whole}: {files} (.json), and a kill cuts off at most {_MOST_CUT_OFF} save, the newest",
            "restore the .json files (beside a .pt.bad, without the .bad of both); with another run.name, "
            "start.source=<file> opens a single checkpoint without one, and a run without start.source starts over",
        )
        return Outlook(None, tuple(bad), refusal, changes_nothing=True)
    had_sidecar = any(not named.is_unfinished for named, _ in bad)
    if had_sidecar or found.strangers or any(map(_was_whole_once, found.set_aside)):
        return Outlook(None, tuple(bad), CheckpointError(none_is_whole, _RESTORE))
    return Outlook(None, tuple(bad))


def newest_checkpoint(run_folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that verifies, over all phases; None if there never was one.

    Bad ones are set aside as ``<name>.bad`` and each is said in a line; so is what a kill left of a save or a deletion.
    Files that padless did not name are left alone. Call on one rank only.

    Raises:
        CheckpointError: there are checkpoints, but none is usable, or the folder cannot be read or put in order. One
            save that a kill cut off is no checkpoint. Where sidecars are lost, no file is changed.
    """
    found = find(run_folder)
    outlook = foresee(run_folder, found, lambda named: problem_of_pair(named, read_file=True)[1])
    if outlook.refusal is not None and outlook.changes_nothing:
        for named, problem in outlook.bad:
            say(f"checkpoint {named.path} is not whole: {problem}")
        raise outlook.refusal
    put_in_order(run_folder, say)
    for stranger in found.strangers:
        say(f"{stranger} left alone: it is not named <phase>/<phase>-<tokens>tok.pt as checkpoints of this run are")
    for named, problem in outlook.bad:
        say(f"checkpoint {named.path} set aside as {_set_aside(named.path)}: {problem}")
    if outlook.refusal is not None:
        raise outlook.refusal
    return outlook.taken


def _was_whole_once(path: Path) -> bool:
    """Return whether a file set aside is more than a save that a kill cut off: a sidecar, or a link."""
    return plain_path(path).suffix == ".json" or path.is_symlink()


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


def _set_aside(file: Path) -> str:
    """Rename file and sidecar to the first free ``.bad``, ``.bad.2``, ...; return the file's new name."""
    pair = (file, file.with_suffix(".json"))
    there = [path for path in pair if os.path.lexists(path)]
    number, ending = 1, BAD
    while any(os.path.lexists(path.with_name(path.name + ending)) for path in pair):
        number += 1
        ending = f"{BAD}.{number}"
    for path in there:
        _change(path, lambda path=path: path.replace(path.with_name(path.name + ending)))
    sync_folder(file.parent)
    return (there[0].name if there else file.name) + ending


def _change(path: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be renamed or removed: {error.strerror}", f"make {path.parent} writable"
        ) from error
