"""Names in a run's ``checkpoints/``: what they say, and which files are whose. Nothing is opened here."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from padless.errors import CheckpointError

FOLDER = "checkpoints"
PARTIAL, DELETING, BAD = ".partial", ".deleting", ".bad"


def checkpoint_path(run_folder: Path, phase: str, clock_tokens: int) -> Path:
    """Return where the checkpoint of a phase at a clock lies: digits are grouped, so names read and sort by eye."""
    return run_folder / FOLDER / phase / f"{phase}-{clock_tokens:_}tok.pt"


def parse_name(path: Path) -> tuple[str, int] | None:
    """Return phase and clock that ``<phase>/<phase>-<clock>tok.pt`` says; None if it is not named so."""
    phase, separator, rest = path.stem.rpartition("-")
    digits = rest.removesuffix("tok").replace("_", "")
    if not separator or path.suffix != ".pt" or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    is_ours = path.parent.name == phase and path.name == f"{phase}-{int(digits):_}tok.pt"
    return (phase, int(digits)) if is_ours else None


@dataclass(frozen=True)
class Named:
    """A name of a checkpoint, and what lies under it."""

    path: Path  # of the .pt
    phase: str
    clock_tokens: int
    has_file: bool  # a broken link counts
    has_sidecar: bool

    @property
    def sidecar(self) -> Path:
        """Path of the sidecar."""
        return self.path.with_suffix(".json")

    @property
    def is_unfinished(self) -> bool:
        """Whether a kill cut its save off: a plain file that never got its sidecar."""
        return not self.has_sidecar and not self.path.is_symlink()


@dataclass(frozen=True)
class Found:
    """Everything in ``checkpoints/``, by what its name says."""

    checkpoints: tuple[Named, ...]  # newest first, over all phases
    partial: tuple[Path, ...]
    deleting: tuple[Path, ...]
    set_aside: tuple[Path, ...]  # .pt.bad and .json.bad
    strangers: tuple[Path, ...]  # .pt files with names that are not ours


def find(run_folder: Path) -> Found:
    """Return what lies in a run's ``checkpoints/``; empty if the run has no such folder.

    Raises:
        CheckpointError: the folder, or one in it, is a broken link or cannot be read.
    """
    names: dict[Path, set[str]] = {}
    groups: dict[str, list[Path]] = {PARTIAL: [], DELETING: [], BAD: [], "": []}
    for path in (each for folder in _folders(run_folder / FOLDER) for each in _entries(folder)):
        plain, kind = _kind(path)
        if parse_name(plain) is None:
            if kind == "" and path.suffix == ".pt":
                groups[""].append(path)
        elif kind == "":
            names.setdefault(plain, set()).add(path.suffix)
        else:
            groups[kind].append(path)
    checkpoints = [
        Named(path, *parsed, ".pt" in suffixes, ".json" in suffixes)
        for path, suffixes in names.items()
        if (parsed := parse_name(path)) is not None
    ]
    checkpoints.sort(key=lambda each: (each.clock_tokens, each.phase), reverse=True)
    partial, deleting, bad, strangers = (tuple(sorted(group)) for group in groups.values())
    return Found(tuple(checkpoints), partial, deleting, bad, strangers)


def _kind(path: Path) -> tuple[Path, str]:
    """Return the .pt that a file belongs to, and which of the endings it has."""
    name, kind = path.name, ""
    for ending in (PARTIAL, DELETING, BAD):
        head, separator, number = name.rpartition(ending)
        if separator and (number == "" or (ending == BAD and number[:1] == "." and number[1:].isdigit())):
            name, kind = head, ending
            break
    if name.endswith(".json"):
        name = name.removesuffix(".json") + ".pt"
    return path.with_name(name), kind


def _folders(root: Path) -> list[Path]:
    if not os.path.lexists(root):
        return []
    return [path for path in _entries(root) if _is_folder(path)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        target = f", a link to {folder.readlink()}" if folder.is_symlink() else ""
        raise CheckpointError(
            f"{folder}{target} cannot be read: {error.strerror}",
            "make it readable again (is its disk mounted?), or choose another run.name to start over",
        ) from error


def _is_folder(path: Path) -> bool:
    """Return whether ``path`` is a phase's folder; a link to nowhere counts, so that reading it is an error."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return True
