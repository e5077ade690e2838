"""Whether our Triton kernels run: decided once a process, said in one line.

    a CUDA GPU with bf16, Triton installed    triton: rotation in place, fused cross-entropy
    anything else, or PADLESS_KERNELS=plain   plain: PyTorch operators

Both compute the same; the environment variable is for comparing them and for ruling one out.
"""

import functools
import importlib.util
import os

import torch

from padless.errors import ConfigError

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
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability()
    return f"the GPU's compute capability is {capability}, below 8.0" if capability[0] < 8 else None


def kernels_line(device_type: str) -> str:
    """Return the line that says which kernels run."""
    lacking = missing_for_triton(device_type)
    if lacking is None:
        return "kernels: triton (rotation in place, fused cross-entropy)"
    return f"kernels: plain; {lacking}"
