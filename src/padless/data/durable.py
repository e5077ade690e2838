"""Files that a rerun may trust: complete under their final name, or not there at all."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from padless.errors import CheckpointError

_CHUNK_BYTES = 1 << 20


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; it appears under its name, synced to disk, only if the body does not raise.

    Until then it is ``<name>.partial``, which is removed when the body or the disk fails; only a kill leaves it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` at once."""
    with durable_file(path) as file:
        file.write(content)


def append_line(path: Path, line: str, *, sync: bool = False) -> None:
    """Add one line to a file of records.

    Args:
        path: the file; made if missing.
        line: without its newline.
        sync: whether the line is on disk before this returns, apart from a line before it that a kill cut off.

    Raises:
        CheckpointError: the disk is full, or the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            torn = sync and file.tell() > 0 and _last_byte(path) != b"\n"  # a kill cut the line before off
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}",
            "free disk space or make it writable; the same command goes on from the last checkpoint",
        ) from error


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file as hex, telling ``on_bytes`` of each chunk's size."""
    if on_bytes is None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
