"""Which attention backend runs: chosen once at start, said in one line, with what a faster one would need.

    auto on a GPU    varlen where torch's kernel can run, else flash where the package is installed, else sdpa
    auto elsewhere   sdpa

``sdpa`` or ``reference`` on a GPU for more than 1B tokens is an error unless allowed: it is several times slower.
"""

import importlib
import importlib.util

import torch

from padless.attention.api import AttentionBackend
from padless.errors import ConfigError
from padless.units import approximate_tokens

BACKENDS = ("reference", "sdpa", "varlen", "flash")
SLOW_TOKENS = 1_000_000_000
_NEEDS = "a CUDA GPU of compute capability 8.0 or more and bf16"


def get_backend(name: str) -> AttentionBackend:
    """Return the ``attend`` function of a backend.

    Raises:
        ConfigError: no backend has that name, or its package is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"attention backend {name!r} does not exist", f"choose one of {', '.join(BACKENDS)}")
    return importlib.import_module(f"padless.attention.{name}").attend


def choose_backend(
    requested: str, device_type: str, total_tokens: int, allow_slow: bool, half_precision: bool = True
) -> tuple[str, str]:
    """Return the backend of this run and the line that says so.

    Args:
        requested: ``auto`` or a backend's name.
        device_type: ``cpu``, ``cuda``, ...
        total_tokens: length of the run, on the clock.
        allow_slow: permit a slow backend on a GPU for a long run.
        half_precision: activations are bf16 or fp16, which the FlashAttention kernels need.

    Raises:
        ConfigError: the backend cannot run here, or is slow and the run long.
    """
    missing = {"varlen": missing_for_varlen(device_type, half_precision)}
    missing["flash"] = missing_for_flash(device_type, half_precision)
    if requested not in ("auto", *BACKENDS):
        raise ConfigError(
            f"hardware.attention_backend={requested} does not exist", f"choose one of auto, {', '.join(BACKENDS)}"
        )
    lacking = missing.get(requested)
    if lacking:
        raise ConfigError(
            f"hardware.attention_backend={requested} cannot run here: {lacking}",
            "hardware.attention_backend=auto takes the fastest that can",
        )
    runnable = [name for name, lack in missing.items() if not lack]
    backend = (runnable or ["sdpa"])[0] if requested == "auto" else requested
    is_slow = device_type != "cpu" and backend in ("sdpa", "reference")
    if is_slow and total_tokens > SLOW_TOKENS and not allow_slow:
        raise ConfigError(
            f"attention backend {backend} on a GPU is too slow for {approximate_tokens(total_tokens)} tokens "
            f"(varlen: {missing['varlen'] or 'can run here'}; flash: {missing['flash'] or 'can run here'})",
            "mend what is missing, or set hardware.allow_slow_attention=true",
        )
    return backend, _line(backend, requested, missing)


def _line(backend: str, requested: str, missing: dict[str, str | None]) -> str:
    line = f"attention: {backend} ({'chosen' if requested == 'auto' else 'as asked'})"
    if backend in ("varlen", "flash"):
        return line
    runnable = [name for name, lack in missing.items() if not lack]
    if runnable:
        return f"{line}; faster here: hardware.attention_backend={runnable[0]}"
    return f"{line}; a faster one (varlen, flash) needs {_NEEDS}; here: {missing['varlen']}"


def _missing_for_kernel(device_type: str, half_precision: bool) -> str | None:
    if device_type != "cuda":
        return f"the device is {device_type}, not a CUDA GPU"
    if not half_precision:
        return "activations are fp32, and the kernel takes bf16 or fp16"
    if torch.cuda.get_device_capability()[0] < 8:
        return f"the GPU's compute capability is {torch.cuda.get_device_capability()}, below 8.0"
    return None


def missing_for_varlen(device_type: str, half_precision: bool = True) -> str | None:
    """Return what keeps torch's own FlashAttention from running here, or None."""
    lacking = _missing_for_kernel(device_type, half_precision)
    if lacking is None and not torch.backends.cuda.is_flash_attention_available():
        return "this torch was built without FlashAttention"
    return lacking


def missing_for_flash(device_type: str, half_precision: bool = True) -> str | None:
    """Return what keeps the flash-attn package from running here, or None."""
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed (padless has an extra [flash])"
    return _missing_for_kernel(device_type, half_precision)
