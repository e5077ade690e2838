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
    has_sidecar: bool  # one that a deletion took away, and that the next start gives back, counts
    is_newest: bool  # no other name, nor a save in progress, has a later clock
    is_being_deleted: bool = False  # a kill cut its deletion off before the file was gone

    @property
    def sidecar(self) -> Path:
        """Path of the sidecar, under the name that it has now."""
        path = self.path.with_suffix(".json")
        return path.with_name(path.name + DELETING) if self.is_being_deleted else path

    @property
    def is_unfinished(self) -> bool:
        """Whether a kill can have cut its save off: the newest one, a plain file that never got its sidecar."""
        return not self.has_sidecar and self.is_newest and not self.path.is_symlink()


@dataclass(frozen=True)
class Found:
    """Everything in ``checkpoints/``, by what its name says."""

    checkpoints: tuple[Named, ...]  # newest first, over all phases
    partial: tuple[Path, ...]
    deleting: tuple[Path, ...]
    set_aside: tuple[Path, ...]  # .pt.bad and .json.bad
    strangers: tuple[Path, ...]  # .pt files with names that are not ours

    @property
    def without_sidecar(self) -> set[Path]:
        """Names of the .pt files that have none; those set aside count, twice the same name once."""
        here = {named.path for named in self.checkpoints if not named.has_sidecar}
        files = {path for path in self.set_aside if plain_path(path).suffix == ".pt"}
        return here | {plain_path(path) for path in files if _sidecar_set_aside(path) not in self.set_aside}


def plain_path(path: Path) -> Path:
    """Return the name that a file set aside had before."""
    return path.with_name(path.name.rpartition(BAD)[0])


def find(run_folder: Path) -> Found:
    """Return what lies in a run's ``checkpoints/``; empty if the run has no such folder.

    Raises:
        CheckpointError: the folder, or one in it, is a broken link or cannot be read.
    """
    names: dict[Path, set[str]] = {}
    groups: dict[str, list[Path]] = {PARTIAL: [], DELETING: [], BAD: [], "": []}
    clocks = [0]
    for path in (each for folder in _folders(run_folder / FOLDER) for each in _entries(folder)):
        plain, kind = _kind(path)
        parsed = parse_name(plain)
        if parsed is None:
            if kind == "" and path.suffix == ".pt":
                groups[""].append(path)
            continue
        if kind == "":
            names.setdefault(plain, set()).add(path.suffix)
        else:
            groups[kind].append(path)
        if kind in ("", PARTIAL):
            clocks.append(parsed[1])
    markers = {path.with_name(path.name.removesuffix(DELETING)).with_suffix(".pt") for path in groups[DELETING]}
    checkpoints = [
        _named(path, suffixes, is_marked=path in markers, newest_tokens=max(clocks)) for path, suffixes in names.items()
    ]
    checkpoints.sort(key=lambda each: (each.clock_tokens, each.phase), reverse=True)
    partial, deleting, bad, strangers = (tuple(sorted(group)) for group in groups.values())
    return Found(tuple(checkpoints), partial, deleting, bad, strangers)


def _named(path: Path, suffixes: set[str], is_marked: bool, newest_tokens: int) -> Named:
    phase, clock_tokens = parse_name(path) or ("", 0)
    is_being_deleted = is_marked and ".json" not in suffixes
    return Named(
        path=path,
        phase=phase,
        clock_tokens=clock_tokens,
        has_file=".pt" in suffixes,
        has_sidecar=".json" in suffixes or is_being_deleted,
        is_newest=clock_tokens >= newest_tokens,
        is_being_deleted=is_being_deleted,
    )


def _sidecar_set_aside(path: Path) -> Path:
    """Return where the sidecar of a .pt lies that was set aside: :mod:`padless.checkpoint.newest` names both alike."""
    plain, _, number = path.name.rpartition(BAD)
    return path.with_name(f"{plain.removesuffix('.pt')}.json{BAD}{number}")


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
