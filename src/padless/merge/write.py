"""A merge on disk: a checkpoint without moments that names its parents, alone or in a folder laid out as a run's.

out=merged.pt      merged.pt, merged.json
out=merged/        merged/checkpoints/<phase>/<phase>-<clock>tok.pt and .json, tokenizer/, config.yaml, lineage.jsonl
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.config.load import config_hash, to_plain, to_yaml
from padless.data.durable import write_durably
from padless.data.preflight import TOKENIZER_FILES
from padless.errors import CheckpointError, ConfigError
from padless.merge.sources import Source
from padless.run_files import CONFIG, TOKENIZER
from padless.train.lineage import environment, note

KEPT = "a merge"


@dataclass(frozen=True)
class Parent:
    """One checkpoint of a merge, and its share in the mean."""

    source: Source
    share: float


def refuse_out(out: Path) -> None:
    """Refuse to write over anything, or where nothing can be written.

    Raises:
        ConfigError: there is something already.
        CheckpointError: the folder it would be in cannot be written.
    """
    for path in (out, out.with_suffix(".json")) if _is_file(out) else (out,):
        if _is_taken(path):
            raise ConfigError(f"out={out}: {path} is there already", "choose another name, or move it away")
    folder = out.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):  # asks the file system itself, whatever the permissions say
            pass
    except OSError as error:
        raise _cannot_write(out, error) from error


def _cannot_write(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"out={out} cannot be written: {error.strerror}", "give a place in a writable folder")


def _is_file(out: Path) -> bool:
    return out.suffix == ".pt"


def _is_taken(path: Path) -> bool:
    return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))


def clock_of(parents: Sequence[Parent]) -> int:
    """Return the clock of a merge: its parents', or the highest of them, which no weight in it has gone beyond."""
    return max(parent.source.clock_tokens for parent in parents)


def write_merge(out: Path, weights: dict[str, Tensor], parents: Sequence[Parent], eval_loss: float | None) -> Path:
    """Write merged weights, and return the checkpoint.

    Phase and configuration are the first parent's; each parent stands in the checkpoint and in the lineage.

    Args:
        out: a file ending in .pt, or a folder to make.
        weights: the mean, by Hugging Face names.
        parents: what it is a mean of, in order.
        eval_loss: its validation loss, nats; None if it was not measured.

    Raises:
        CheckpointError: the disk is full or not writable, or a parent's tokenizer is gone.
    """
    first, clock_tokens = parents[0].source, clock_of(parents)
    config = replace(first.config, run=replace(first.config.run, name=out.stem))
    path = out if _is_file(out) else checkpoint_path(out, first.phase_name, clock_tokens)
    tokenizer_folder = Path(first.tokenizer_folder)
    try:
        if not _is_file(out):
            _copy_tokenizer(tokenizer_folder, out / TOKENIZER)
            write_durably(out / CONFIG, to_yaml(config).encode())
            tokenizer_folder = (out / TOKENIZER).resolve()
    except OSError as error:
        raise _cannot_write(out, error) from error
    meta = {
        "config": to_plain(config),
        "data": {name: digest for parent in parents for name, digest in parent.source.data.items()},
        "tokenizer_folder": str(tokenizer_folder),
        "tokenizer_sha256": first.tokenizer_sha256,
        "phase": first.phase_name,
        "clock_tokens": clock_tokens,
        "step": max(parent.source.step for parent in parents),
        "train_seconds": max(parent.source.train_seconds for parent in parents),
        "eval_loss": eval_loss,
        "merged_from": [_facts(parent) for parent in parents],
    }
    save_checkpoint(path, Checkpoint(weights, None, meta), config_hash(config), kept=KEPT)
    if not _is_file(out):
        detail = f"the mean of {len(parents)} checkpoints"
        note(out, "merge", clock_tokens, detail, parents=meta["merged_from"], **environment())
    return path


def _copy_tokenizer(source: Path, to: Path) -> None:
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source} has no tokenizer.json, which the merge has to carry", "copy the run folder with its tokenizer/"
        )
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            write_durably(to / name, (source / name).read_bytes())


def _facts(parent: Parent) -> dict[str, str | int | float]:
    source = parent.source
    return {
        "path": str(source.path.resolve()),
        "sha256": source.sha256,
        "phase": source.phase_name,
        "clock_tokens": source.clock_tokens,
        "share": parent.share,
    }
