"""Read a checkpoint, also one from a stranger: nothing in it is executed, and it takes no more memory than its size."""

import pickle
from pathlib import Path

import torch

from padless.checkpoint.archive import refuse_unsafe_archive
from padless.checkpoint.contents import FORMAT_VERSION, Checkpoint, problem_of_content
from padless.checkpoint.outline import RefusedError
from padless.errors import CheckpointError

_REMEDY = "give a .pt file from a run's checkpoints/ folder, or a Hugging Face folder"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without executing anything it holds; tensors come on the CPU.

    Whether weights are finite is not checked here.

    Raises:
        CheckpointError: not a padless checkpoint, truncated, or it holds more than tensors and plain values; what is
            refused is named.
    """
    try:
        refuse_unsafe_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except RefusedError as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}; nothing in it was run", _REMEDY
        ) from error
    except (OSError, RuntimeError, pickle.UnpicklingError, ValueError, TypeError, EOFError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}", _REMEDY) from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path} has checkpoint format {found!r:.40}, this version reads {FORMAT_VERSION}",
            "give a checkpoint that padless wrote, or a Hugging Face folder",
        )
    problem = problem_of_content(content, path.stat().st_size)
    if problem is not None:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {problem}", _REMEDY)
    return Checkpoint(content["model"], content["optimizer"], content["meta"])
