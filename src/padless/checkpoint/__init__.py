"""Checkpoints: one file of plain tensors, one JSON sidecar written after it, the newest pair that verifies wins.

    checkpoints/<phase>/<phase>-<clock tokens>tok.pt        weights by Hugging Face names, moments, facts
    checkpoints/<phase>/<phase>-<clock tokens>tok.json      size and sha256 of the .pt, clock, step, phase, config hash
                        ... .pt.partial, .json.partial      a save in progress, or one that a kill cut off
                        ... .json.deleting                  the sidecar of a checkpoint that retention is deleting
                        ... .pt.bad, .json.bad              set aside because it did not verify

Both are written under another name, synced and renamed, the sidecar last; a file without a sidecar is therefore an
unfinished save. Loading runs no code from the file and takes no more memory than its size. Nothing here knows Composer.
"""

from padless.checkpoint.contents import FORMAT_VERSION, Checkpoint
from padless.checkpoint.facts import open_checkpoint
from padless.checkpoint.listing import CheckpointRow, list_checkpoints
from padless.checkpoint.load import load_checkpoint
from padless.checkpoint.names import checkpoint_path
from padless.checkpoint.newest import newest_checkpoint
from padless.checkpoint.retention import apply_retention, checkpoints_to_delete
from padless.checkpoint.save import save_checkpoint
from padless.checkpoint.sidecar import Sidecar
from padless.checkpoint.space import expected_bytes, refuse_too_little_space

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "CheckpointRow",
    "Sidecar",
    "apply_retention",
    "checkpoint_path",
    "checkpoints_to_delete",
    "expected_bytes",
    "list_checkpoints",
    "load_checkpoint",
    "newest_checkpoint",
    "open_checkpoint",
    "refuse_too_little_space",
    "save_checkpoint",
]
