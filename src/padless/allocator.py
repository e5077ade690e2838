"""Memory on a CPU: what a step frees is kept for the next one, and kernels are kept for few shapes.

By default glibc gives blocks of many megabytes back to the system as they are freed, and the next step pays a page
fault for every 4 KiB of them: about 110,000 a step at 6 x 384 and a vocabulary of 50,368, several percent of its time
on the machine of docs/benchmarks.md and more where page faults are dear.

oneDNN, which does torch's products in bf16, builds a kernel for each shape and keeps the last 1,024. Packed batches go
on bringing new shapes, and what is kept lies between large blocks that come and go, so that the heap falls into pieces.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER_BYTES, _PAD_BYTES = 2**31 - 1, 1 << 26
_VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
_KERNELS_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")
_KERNELS = "32"  # a layer and the loss use some 20 shapes again and again


def keep_few_kernels() -> None:
    """Tell oneDNN to keep 32 kernels, if the environment does not say otherwise.

    It asks once, at its first product in this process: later calls change nothing.
    """
    if not any(name in os.environ for name in _KERNELS_VARIABLES):
        os.environ[_KERNELS_VARIABLES[0]] = _KERNELS


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; return whether it was told.

    Nothing is done on other systems, with another C library, or where the environment sets the allocator.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER_BYTES), (_TOP_PAD, _PAD_BYTES))
    return all(bool(mallopt(name, value)) for name, value in settings)
