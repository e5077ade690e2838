"""Write a checkpoint so that a kill or a full disk at any moment leaves the earlier ones and none that lies."""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import torch

from padless.checkpoint.archive import refuse_unsafe_archive
from padless.checkpoint.contents import FORMAT_VERSION, Checkpoint, bytes_of_tensors, problem_of_content
from padless.checkpoint.outline import RefusedError
from padless.checkpoint.sidecar import Sidecar
from padless.checkpoint.space import expected_bytes, free_bytes
from padless.data.durable import durable_file, write_durably
from padless.errors import CheckpointError
from padless.events import reached
from padless.units import approximate_bytes


class _Hashed:
    """A file that is hashed as it is written: ``torch.save`` writes strictly from front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def sha256(self) -> str:
        return self._digest.hexdigest()


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, config_hash: str, *, lr: float | None = None, kept: str | None = None
) -> Sidecar:
    """Write the checkpoint, then its sidecar.

    Args:
        path: the .pt, see :func:`padless.checkpoint.checkpoint_path`.
        checkpoint: the state.
        config_hash: hash of the settings that change results.
        lr: learning rate of the last step.
        kept: why retention must not delete it, such as ``"phase end"``; None if it may.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "meta": checkpoint.meta,
    }
    problem = problem_of_content(content, None)
    if problem is not None:
        raise ValueError(f"{path} would be a checkpoint that does not load: {problem}")
    try:
        with durable_file(path) as file:
            hashed = _Hashed(file)
            torch.save(content, hashed)  # pyright: ignore[reportArgumentType]
            file.flush()
            _require_loadable(Path(file.name), path)
            reached("save_inside")
        reached("save_before_sidecar")
        sidecar = Sidecar(
            format_version=FORMAT_VERSION,
            file=path.name,
            size_bytes=hashed.size_bytes,
            sha256=hashed.sha256(),
            phase=checkpoint.meta["phase"],
            clock_tokens=checkpoint.clock_tokens,
            step=checkpoint.step,
            config_hash=config_hash,
            lr=lr,
            eval_loss=checkpoint.meta.get("eval_loss"),
            kept=kept,
            saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_durably(path.with_suffix(".json"), json.dumps(asdict(sidecar), indent=1).encode())
    except (OSError, RuntimeError) as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        needed = expected_bytes(0) + bytes_of_tensors(content)
        raise CheckpointError(
            f"cannot write {path}: {reason.strerror}; it needs about {approximate_bytes(needed)}, "
            f"{approximate_bytes(free_bytes(path.parent))} are free",
            "free disk space or make the folder writable and start the same command again; earlier ones are whole",
        ) from error
    reached("save_after")
    return sidecar


def _require_loadable(written: Path, path: Path) -> None:
    """Refuse at the first save, not at the first resume, what another version of torch writes otherwise."""
    try:
        refuse_unsafe_archive(written)
    except RefusedError as error:
        raise ValueError(f"{path} would be a checkpoint that does not load: {error}") from error


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the disk's own error: torch's writer raises one of its own over it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
