"""Whether our Triton kernels run: decided once a process, said in one line.

    a CUDA GPU with bf16, Triton and a C compiler   triton: rotation in place, fused cross-entropy
    anything else, or PADLESS_KERNELS=plain         plain: PyTorch operators

Both compute the same; the environment variable is for comparing them and for ruling one out.
"""

import functools
import os

import torch

from padless.errors import ConfigError
from padless.kernels import toolchain

VARIABLE = "PADLESS_KERNELS"
_CHOICES = ("auto", "plain")


def uses_triton(device_type: str) -> bool:
    """Return whether tensors on this kind of device go through the Triton kernels."""
    return device_type == "cuda" and missing_for_triton(device_type) is None


@functools.cache
def missing_for_triton(device_type: str) -> str | None:
    """Return what keeps the Triton kernels from running on this kind of device, or None.

    Raises:
        ConfigError: the environment variable has a value that does not exist.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in _CHOICES:
        raise ConfigError(f"{VARIABLE}={asked} does not exist", f"set it to one of {', '.join(_CHOICES)}, or unset it")
    if asked == "plain":
        return f"{VARIABLE}=plain"
    if device_type != "cuda":
        return f"the device is {device_type}, not a CUDA GPU"
    lacking = toolchain.missing_to_launch()
    if lacking is not None:
        return lacking
    major, minor = torch.cuda.get_device_capability()
    return f"the GPU's compute capability is {major}.{minor}, below 8.0" if major < 8 else None


def kernels_line(device_type: str) -> str:
    """Return the line that says which kernels run. The optimizer's are Triton's wherever Triton can launch any."""
    lacking = missing_for_triton(device_type)
    if lacking is None:
        return "kernels: triton (rotation in place, fused cross-entropy)"
    also = ", the optimizer's too" if device_type == "cuda" and toolchain.missing_to_launch() is not None else ""
    return f"kernels: plain{also}; {lacking}"
