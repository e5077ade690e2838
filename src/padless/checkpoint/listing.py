"""The checkpoints of a run, one row each, without changing anything."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from padless.checkpoint.names import Named, find, parse_name, plain_path
from padless.checkpoint.sidecar import problem_of_pair

WHOLE, SIZE_OK, UNFINISHED, SET_ASIDE = "whole", "size ok", "unfinished", "set aside"
DELETION_UNFINISHED = f"{UNFINISHED}: its deletion, which a resume undoes"


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint as it lies on disk. What only the sidecar knows is None without one."""

    phase: str
    clock_tokens: int
    step: int | None
    lr: float | None  # of its last step
    eval_loss: float | None  # last before it, nats
    size_bytes: int
    state: str  # "whole", "size ok", "damaged: why", "unfinished", "unfinished: its deletion ..." or "set aside"
    kept: str | None  # why retention does not delete it
    path: Path

    @property
    def is_whole(self) -> bool:
        """Whether it lies there as a save left it, as far as it was looked at."""
        return self.state in (WHOLE, SIZE_OK)

    @property
    def can_be_taken(self) -> bool:
        """Whether a resume could take it, as far as it was looked at: also one that it gives its sidecar back."""
        return self.is_whole or self.state == DELETION_UNFINISHED


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
    rows = [_row(named, read_files, on_bytes) for named in found.checkpoints]
    rows += [_row_set_aside(path) for path in found.set_aside if plain_path(path).suffix == ".pt"]
    return sorted(rows, key=lambda row: (row.clock_tokens, row.phase, row.path.name))


def _row(named: Named, read_file: bool, on_bytes: Callable[[int], None] | None) -> CheckpointRow:
    sidecar, problem = problem_of_pair(named, read_file=read_file, on_bytes=on_bytes)
    if problem is None:
        complete = WHOLE if read_file else SIZE_OK
        state = DELETION_UNFINISHED if named.is_being_deleted else complete
    elif named.is_unfinished:
        state = UNFINISHED
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
    phase, clock_tokens = parse_name(plain_path(path)) or ("", 0)
    return CheckpointRow(phase, clock_tokens, None, None, None, _size(path), SET_ASIDE, None, path)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0
