"""The checkpoints of a run, one row each, without changing anything."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from padless.checkpoint.names import BAD, DELETING, Found, Named, find, parse_name
from padless.checkpoint.sidecar import problem_of_pair

WHOLE, SIZE_OK, UNFINISHED, SET_ASIDE = "whole", "size ok", "unfinished", "set aside"


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint as it lies on disk. What only the sidecar knows is None without one."""

    phase: str
    clock_tokens: int
    step: int | None
    lr: float | None  # of its last step
    eval_loss: float | None  # last before it, nats
    size_bytes: int
    state: str  # "whole", "size ok", "damaged: why", "unfinished" or "set aside"
    kept: str | None  # why retention does not delete it
    path: Path

    @property
    def is_whole(self) -> bool:
        """Whether a resume could take it, as far as it was looked at."""
        return self.state in (WHOLE, SIZE_OK)


def list_checkpoints(
    run_folder: Path, *, read_files: bool, on_bytes: Callable[[int], None] | None = None
) -> list[CheckpointRow]:
    """Return the checkpoints of a run by clock, oldest first, with those set aside.

    Args:
        run_folder: the run's.
        read_files: compare hashes ("whole") instead of sizes ("size ok").
        on_bytes: told of each chunk read.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    found = find(run_folder)
    rows = [_row(named, found, read_files, on_bytes) for named in found.checkpoints]
    rows += [_row_set_aside(path) for path in found.set_aside if path.name.rpartition(BAD)[0].endswith(".pt")]
    return sorted(rows, key=lambda row: (row.clock_tokens, row.phase, row.path.name))


def _row(named: Named, found: Found, read_file: bool, on_bytes: Callable[[int], None] | None) -> CheckpointRow:
    sidecar, problem = problem_of_pair(named, read_file=read_file, on_bytes=on_bytes)
    is_being_deleted = named.sidecar.with_name(named.sidecar.name + DELETING) in found.deleting
    if problem is None:
        state = WHOLE if read_file else SIZE_OK
    elif named.is_unfinished:
        state = f"{UNFINISHED}: its deletion, which a resume undoes" if is_being_deleted else UNFINISHED
    else:
        state = f"damaged: {problem}"
    if sidecar is None:
        return CheckpointRow(
            named.phase, named.clock_tokens, None, None, None, _size(named.path), state, None, named.path
        )
    return CheckpointRow(
        phase=named.phase,
        clock_tokens=named.clock_tokens,
        step=sidecar.step,
        lr=sidecar.lr,
        eval_loss=sidecar.eval_loss,
        size_bytes=_size(named.path),
        state=state,
        kept=sidecar.kept,
        path=named.path,
    )


def _row_set_aside(path: Path) -> CheckpointRow:
    phase, clock_tokens = parse_name(path.with_name(path.name.rpartition(BAD)[0])) or ("", 0)
    return CheckpointRow(phase, clock_tokens, None, None, None, _size(path), SET_ASIDE, None, path)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0
