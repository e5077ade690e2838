"""What to say when a GPU's memory does not hold a microbatch, and which microbatch it would hold."""

import re
from collections.abc import Sequence

import torch
from torch import nn

from padless.errors import TrainingError

_COPIES = 4  # of the weights, in fp32: themselves, gradients, two moments
_MARGIN = 1.15  # a step that failed early had asked for less than it needs
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"Tried to allocate ([\d.]+) (KiB|MiB|GiB)")


def fixed_bytes(model: nn.Module) -> int:
    """Return the bytes of weights, gradients and moments, which no microbatch changes."""
    return _COPIES * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def asked_bytes(message: str) -> int:
    """Return the bytes that torch could not have, from its message; 0 if it does not say."""
    found = _ASKED.search(message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def fitting_microbatches(
    microbatch_blocks: int, rank_quantum_blocks: int, needed: int, fixed: int, total: int
) -> list[int]:
    """Return the smaller microbatches that are estimated to fit, ascending.

    Activations are taken as linear in the microbatch.

    Args:
        microbatch_blocks: the one that did not fit.
        rank_quantum_blocks: what a microbatch has to divide: the phases' quantums over the ranks.
        needed: bytes that the step would have taken at least.
        fixed: bytes of it that do not depend on the microbatch.
        total: bytes of the device.
    """
    activations = _MARGIN * max(needed - fixed, 0) / microbatch_blocks
    return [
        blocks
        for blocks in range(1, microbatch_blocks)
        if rank_quantum_blocks % blocks == 0 and fixed + activations * blocks <= total
    ]


def out_of_memory(
    microbatch_blocks: int, rank_quantum_blocks: int, peak: int, asked: int, fixed: int, total: int
) -> TrainingError:
    """Return the error for a microbatch that a device's memory does not hold.

    Args:
        microbatch_blocks: ``hardware.microbatch_blocks``.
        rank_quantum_blocks: as in :func:`fitting_microbatches`.
        peak: most bytes that were in use.
        asked: bytes that could not be had.
        fixed: bytes of weights, gradients and moments.
        total: bytes of the device.
    """
    cause = (
        f"hardware.microbatch_blocks={microbatch_blocks} does not fit the GPU: {_gib(peak)} of {_gib(total)} were "
        f"in use ({_gib(fixed)} for weights, gradients and moments) and {_gib(asked)} more were asked for"
    )
    fitting = fitting_microbatches(microbatch_blocks, rank_quantum_blocks, peak + asked, fixed, total)
    if fitting:
        more = f" ({_listed(fitting[:-1])} too)" if len(fitting) > 1 else ""
        remedy = f"set hardware.microbatch_blocks={fitting[-1]}, which should fit{more}; it does not change results"
    elif microbatch_blocks > 1:
        remedy = "try hardware.microbatch_blocks=1 (by estimate it does not fit either); it does not change results"
    else:
        remedy = "a block is the smallest microbatch: free the GPU of other processes, or use one with more memory"
    return TrainingError(cause, remedy)


def out_of_memory_on(
    device: torch.device,
    error: torch.OutOfMemoryError,
    model: nn.Module,
    microbatch_blocks: int,
    rank_quantum_blocks: int,
) -> TrainingError:
    """Return :func:`out_of_memory` for what a CUDA device says of itself."""
    return out_of_memory(
        microbatch_blocks,
        rank_quantum_blocks,
        torch.cuda.max_memory_allocated(device),
        asked_bytes(str(error)),
        fixed_bytes(model),
        torch.cuda.get_device_properties(device).total_memory,
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
