"""The JSON beside a checkpoint: what is known of it without opening it, and whether the two belong together."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from padless.checkpoint.contents import FORMAT_VERSION
from padless.checkpoint.names import Named
from padless.data.durable import sha256_of_file
from padless.errors import CheckpointError

_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Sidecar:
    """What is known of a checkpoint without opening it. Fields with a default may be missing in older ones."""

    format_version: int
    file: str
    size_bytes: int
    sha256: str
    phase: str
    clock_tokens: int
    step: int
    config_hash: str
    lr: float | None = None  # of the last step
    eval_loss: float | None = None  # last validation loss, nats
    kept: str | None = None  # why retention must not delete it, such as "phase end"; None if it may
    saved_at: str | None = None  # ISO 8601, UTC


def read_sidecar(path: Path) -> Sidecar:
    """Return what a sidecar says. Fields that this version does not know are left out.

    Raises:
        CheckpointError: it cannot be read, is too large, or is not a sidecar of this format.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:_} bytes")
        tree = json.loads(content)
        if not isinstance(tree, dict):
            raise ValueError(f"it is a {type(tree).__name__}")
        if tree.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"it has format {tree.get('format_version')!r}, this version reads {FORMAT_VERSION}")
        known = {field.name: _checked(tree, field.name, field.type) for field in fields(Sidecar) if field.name in tree}
        return Sidecar(**known)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"the sidecar {path.name} does not parse ({reason})", "restore it from a backup, with its checkpoint"
        ) from error


def _checked(tree: dict[str, Any], name: str, kind: object) -> Any:
    value = tree[name]
    if kind is int:
        is_right = type(value) is int and value >= 0
    elif kind is str:
        is_right = type(value) is str
    elif kind == (float | None):
        is_right = value is None or type(value) in (int, float)
    else:
        is_right = value is None or type(value) is str
    if not is_right:
        raise ValueError(f"{name} is {value!r:.60}")
    return value


def problem_of_pair(
    named: Named, *, read_file: bool, on_bytes: Callable[[int], None] | None = None
) -> tuple[Sidecar | None, str | None]:
    """Return the sidecar, if it can be read, and what keeps the checkpoint from being whole, if anything.

    Args:
        named: the pair.
        read_file: compare the file's hash, too; otherwise only its size.
        on_bytes: told of each chunk read.
    """
    if named.is_unfinished:
        return None, "it has no sidecar, so its save did not finish"
    try:
        sidecar = read_sidecar(named.sidecar) if named.has_sidecar else None
    except CheckpointError as error:
        return None, error.cause
    problem = _problem_of_file(named.path)
    if sidecar is None:
        return None, problem or "its sidecar is missing"
    said = (named.path.name, named.phase, named.clock_tokens)
    if problem is None and (sidecar.file, sidecar.phase, sidecar.clock_tokens) != said:
        problem = f"its sidecar belongs to {sidecar.file}, phase {sidecar.phase!r} at {sidecar.clock_tokens:_} tokens"
    try:
        size = 0 if problem is not None else named.path.stat().st_size
        if problem is None and size != sidecar.size_bytes:
            problem = f"{size:_} bytes, should be {sidecar.size_bytes:_}"
        if problem is None and read_file and sha256_of_file(named.path, on_bytes) != sidecar.sha256:
            problem = "content does not match its sha256"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    return sidecar, problem


def _problem_of_file(path: Path) -> str | None:
    if path.is_symlink() and not path.exists():
        return f"file is missing: it is a link to {path.readlink()}, where there is nothing"
    if not path.exists():
        return "file is missing, its sidecar is there"
    return None if path.is_file() else "it is not a file"
