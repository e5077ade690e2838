"""How much room a checkpoint needs, and whether the disk has it."""

import shutil
from pathlib import Path

from padless.errors import CheckpointError
from padless.units import approximate_bytes

_BYTES_A_PARAMETER = 12  # weight and two moments in fp32
_FIXED_BYTES = 1 << 20  # names, facts, and what the archive adds


def expected_bytes(num_parameters: int) -> int:
    """Return about how many bytes a checkpoint of a model with this many parameters has; a little too many."""
    return _BYTES_A_PARAMETER * num_parameters + _FIXED_BYTES


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write where ``folder`` is or will be."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_too_little_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin where not even one more checkpoint would fit.

    Args:
        folder: where checkpoints are written; it need not exist yet.
        needed_bytes: of one checkpoint, see :func:`expected_bytes`.

    Raises:
        CheckpointError: with what is needed and what is free.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise CheckpointError(
            f"{folder} has {approximate_bytes(free)} free, one checkpoint needs {approximate_bytes(needed_bytes)}",
            "free disk space, or choose another run.folder",
        )
