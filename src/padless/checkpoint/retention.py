"""Which checkpoints are deleted so that the disk does not fill: a pure rule, and a deletion that a kill cannot spoil.

The sidecar goes first, by a rename to ``.json.deleting``: from then on nothing claims that the checkpoint is whole, and
the name says what was going on. A kill before the file is gone is undone at the next start or the next deletion; after
it, the leftover is removed. Either way no save looks unfinished and no checkpoint looks lost.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from padless.checkpoint.listing import CheckpointRow, list_checkpoints
from padless.checkpoint.names import DELETING
from padless.checkpoint.newest import put_in_order
from padless.data.durable import sync_folder
from padless.events import reached


def checkpoints_to_delete(rows: Sequence[CheckpointRow], keep_newest: int | None) -> list[CheckpointRow]:
    """Return the rows that may go, oldest first.

    Never the newest whole one, the last of an earlier phase, one that says why it is kept, or one that is not whole
    (it may be someone's last copy). Besides these, the ``keep_newest`` newest stay.

    Args:
        rows: what is on disk.
        keep_newest: how many of the ordinary ones stay; None keeps all.
    """
    whole = sorted((row for row in rows if row.is_whole), key=lambda row: (row.clock_tokens, row.phase), reverse=True)
    if keep_newest is None or not whole:
        return []
    last_of_phase = {row.phase: row.path for row in reversed(whole)}
    last_of_phase.pop(whole[0].phase)
    ordinary = [row for row in whole if row.kept is None and row.path != last_of_phase.get(row.phase)]
    return [row for row in ordinary[keep_newest:] if row is not whole[0]][::-1]


def apply_retention(run_folder: Path, keep_newest: int | None, say: Callable[[str], None]) -> None:
    """Delete what :func:`checkpoints_to_delete` names, counting what is on disk. Call on one rank only.

    A checkpoint that cannot be deleted is said and left: that is no reason to stop a run.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    if keep_newest is None:
        return
    put_in_order(run_folder, say)
    for row in checkpoints_to_delete(list_checkpoints(run_folder, read_files=False), keep_newest):
        try:
            _delete(row.path)
        except OSError as error:
            say(f"checkpoint {row.path} could not be deleted: {error.strerror}")
        else:
            say(f"checkpoint {row.path.relative_to(run_folder)} deleted (run.keep_newest_checkpoints={keep_newest})")


def _delete(path: Path) -> None:
    sidecar = path.with_suffix(".json")
    marker = sidecar.with_name(sidecar.name + DELETING)
    sidecar.replace(marker)
    sync_folder(path.parent)
    reached("retention")
    path.unlink()
    marker.unlink()
    sync_folder(path.parent)
