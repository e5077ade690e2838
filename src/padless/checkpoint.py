"""Checkpoints: one file of plain tensors, one JSON sidecar written after it, the newest pair that verifies wins.

    checkpoints/<phase>/<phase>-<clock tokens>tok.pt      weights by Hugging Face names, moments, facts
    checkpoints/<phase>/<phase>-<clock tokens>tok.json    size and sha256 of the .pt, clock, step, phase, config hash

Both are written under another name, synced and renamed, the sidecar last; a file without a sidecar is therefore an
unfinished save. Loading runs no code from the file (``weights_only``). Nothing here knows Composer.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padless.data.durable import durable_file, sha256_of_file, write_durably
from padless.errors import CheckpointError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """What is known of a checkpoint without opening it."""

    format_version: int
    file: str
    size_bytes: int
    sha256: str
    phase: str
    clock_tokens: int
    step: int
    config_hash: str


@dataclass(frozen=True)
class Checkpoint:
    """Full state of a run at one clock."""

    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Any]] | None  # moments by parameter name, and step counters by group
    meta: dict[str, Any]  # config (plain), data hashes, phase, clock_tokens, step, tokenizer, train_seconds, eval_loss

    @property
    def clock_tokens(self) -> int:
        """Nominal tokens consumed when it was written."""
        return int(self.meta["clock_tokens"])

    @property
    def step(self) -> int:
        """Optimizer steps done when it was written."""
        return int(self.meta["step"])


def checkpoint_path(run_folder: Path, phase: str, clock_tokens: int) -> Path:
    """Return where the checkpoint of a phase at a clock lies: digits are grouped, so names read and sort by eye."""
    return run_folder / "checkpoints" / phase / f"{phase}-{clock_tokens:_}tok.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint, config_hash: str) -> Sidecar:
    """Write the checkpoint, then its sidecar.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "meta": checkpoint.meta,
    }
    try:
        with durable_file(path) as file:
            torch.save(content, file)
        sidecar = Sidecar(
            FORMAT_VERSION,
            path.name,
            path.stat().st_size,
            sha256_of_file(path),
            checkpoint.meta["phase"],
            checkpoint.clock_tokens,
            checkpoint.step,
            config_hash,
        )
        write_durably(path.with_suffix(".json"), json.dumps(asdict(sidecar), indent=1).encode())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}", "free disk space and start the same command again; earlier ones are whole"
        ) from error
    return sidecar


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without executing anything it holds.

    Raises:
        CheckpointError: not a padless checkpoint, truncated, or it holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}",
            "give a .pt file from a run's checkpoints/ folder, or a Hugging Face folder",
        ) from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path} has checkpoint format {found!r}, this version reads {FORMAT_VERSION}",
            "give a checkpoint that padless wrote, or a Hugging Face folder",
        )
    return Checkpoint(content["model"], content["optimizer"], content["meta"])


def _verified(sidecar_path: Path) -> tuple[Sidecar | None, str]:
    """Return the sidecar if its checkpoint is whole, else None and what is wrong with it."""
    try:
        sidecar = Sidecar(**json.loads(sidecar_path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        return None, f"sidecar does not parse ({error})"
    path = sidecar_path.with_name(sidecar.file)
    if not path.exists():
        return None, "file is missing"
    if path.stat().st_size != sidecar.size_bytes:
        return None, f"{path.stat().st_size} bytes, should be {sidecar.size_bytes}"
    if sha256_of_file(path) != sidecar.sha256:
        return None, "content does not match its sha256"
    return sidecar, ""


def _set_aside(path: Path) -> None:
    for each in (path, path.with_suffix(".json")):
        if each.exists():
            each.replace(each.with_name(each.name + ".bad"))


def newest_checkpoint(run_folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that verifies, setting bad ones aside by name; None if there never was one.

    Call on one rank only.

    Raises:
        CheckpointError: there are checkpoints, but none is usable. A save that a kill cut off is none.
    """
    root = run_folder / "checkpoints"
    was_one = any(root.glob("*/*.json.bad"))
    for path in sorted(root.glob("*/*tok.pt"), key=_clock_in_name, reverse=True):
        sidecar_path = path.with_suffix(".json")
        if not sidecar_path.exists():
            problem = "it has no sidecar, so its save did not finish"
        else:
            was_one = True
            sidecar, problem = _verified(sidecar_path)
            if sidecar is not None:
                return path
        say(f"checkpoint {path} set aside as {path.name}.bad: {problem}")
        _set_aside(path)
    if was_one:
        raise CheckpointError(
            f"{root} has checkpoints, but none is whole",
            "restore one with its .json from a backup, or choose another run.name to start over",
        )
    return None


def _clock_in_name(path: Path) -> int:
    digits = path.stem.rsplit("-", 1)[-1].removesuffix("tok")
    return int(digits) if digits.replace("_", "").isdigit() else -1
