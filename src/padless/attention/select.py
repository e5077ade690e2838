"""Which attention backend runs: chosen once at start, said in one line, with what a faster one would need.

    auto on a GPU    varlen where torch's kernel can run, else flash where the package is installed, else sdpa
    auto on a CPU    blocked
    auto elsewhere   sdpa

``sdpa`` or ``reference`` on a GPU for more than 1B tokens is an error unless allowed: it is several times slower. So is
a GPU that this build of torch has no kernels for. The choice is a function of a :class:`Machine`, so it is tested on
records of machines that are not at hand.
"""

import importlib
import importlib.util
from dataclasses import dataclass

import torch

from padless.allocator import keep_few_kernels
from padless.attention import varlen
from padless.attention.api import AttentionBackend
from padless.errors import ConfigError
from padless.units import approximate_tokens

BACKENDS = ("reference", "blocked", "sdpa", "varlen", "flash")
SLOW_TOKENS = 1_000_000_000
_NEEDS = "a CUDA GPU of compute capability 8.0 or more and bf16"
_WIDEST_HEAD, _HEAD_GRID = 256, 8  # of the FlashAttention kernels; the package fills up to the grid by itself


@dataclass(frozen=True)
class Machine:
    """What the choice depends on. Fields about the GPU are empty where there is none."""

    torch_version: str
    device_type: str  # cpu, cuda, ...
    device_name: str | None
    capability: tuple[int, int] | None
    architectures: tuple[str, ...]  # that torch was built for: sm_80, ..., compute_90
    torch_has_flash: bool  # this build of torch carries FlashAttention
    varlen_module_has_window: bool  # torch.nn.attention.varlen is there and takes a window
    flash_attn_installed: bool


def look_at_machine(device_type: str) -> Machine:
    """Return what this process finds, for the current device of that kind."""
    is_gpu = device_type == "cuda"
    return Machine(
        torch_version=str(torch.__version__),
        device_type=device_type,
        device_name=torch.cuda.get_device_name() if is_gpu else None,
        capability=torch.cuda.get_device_capability() if is_gpu else None,
        architectures=tuple(torch.cuda.get_arch_list()) if is_gpu else (),
        torch_has_flash=torch.backends.cuda.is_flash_attention_available(),
        varlen_module_has_window=varlen.module_entry() is not None,
        flash_attn_installed=importlib.util.find_spec("flash_attn") is not None,
    )


def get_backend(name: str) -> AttentionBackend:
    """Return the ``attend`` function of a backend; for ``blocked``, a CPU's, oneDNN is told to keep few kernels.

    Raises:
        ConfigError: no backend has that name, or its package is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"attention backend {name!r} does not exist", f"choose one of {', '.join(BACKENDS)}")
    if name == "blocked":
        keep_few_kernels()
    return importlib.import_module(f"padless.attention.{name}").attend


def choose_backend(
    requested: str,
    device_type: str,
    total_tokens: int,
    allow_slow: bool,
    half_precision: bool = True,
    head_width: int = 64,
) -> tuple[str, str]:
    """Return the backend of this run and the line that says so: :func:`choose_for` this machine.

    Raises:
        ConfigError: the backend cannot run here, or is slow and the run long.
    """
    return choose_for(look_at_machine(device_type), requested, total_tokens, allow_slow, half_precision, head_width)


def choose_for(
    machine: Machine,
    requested: str,
    total_tokens: int,
    allow_slow: bool,
    half_precision: bool,
    head_width: int = 64,
) -> tuple[str, str]:
    """Return the backend of a run on ``machine`` and the line that says so.

    Args:
        machine: what the choice depends on.
        requested: ``auto`` or a backend's name.
        total_tokens: length of the run, on the clock.
        allow_slow: permit a slow backend on a GPU for a long run.
        half_precision: activations are bf16 or fp16, which the FlashAttention kernels need.
        head_width: of the model; the kernels do not take every one.

    Raises:
        ConfigError: torch has no kernels for the GPU, the backend cannot run there, or is slow and the run long.
    """
    if requested not in ("auto", *BACKENDS):
        raise ConfigError(
            f"hardware.attention_backend={requested} does not exist", f"choose one of auto, {', '.join(BACKENDS)}"
        )
    if not has_kernels_for(machine):
        raise ConfigError(
            f"torch {machine.torch_version} was built for {', '.join(machine.architectures)} and has no kernels for "
            f"{machine.device_name} (compute capability {_dotted(machine.capability)})",
            "install the newest-torch profile (docs/newest-torch.md), or a build of torch for this GPU",
        )
    missing = {name: _missing(name, machine, half_precision, head_width) for name in ("varlen", "flash")}
    lacking = missing.get(requested)
    if lacking:
        raise ConfigError(
            f"hardware.attention_backend={requested} cannot run here: {lacking}",
            "hardware.attention_backend=auto takes the fastest that can",
        )
    if requested == "blocked" and machine.device_type != "cpu":
        raise ConfigError(
            f"hardware.attention_backend=blocked is for a CPU, and the device is {machine.device_type}",
            "hardware.attention_backend=auto takes the fastest that can run",
        )
    runnable = [name for name, lack in missing.items() if not lack]
    if machine.device_type == "cpu":
        runnable = ["blocked"]
    backend = (runnable or ["sdpa"])[0] if requested == "auto" else requested
    is_slow = machine.device_type != "cpu" and backend in ("sdpa", "reference")
    if is_slow and total_tokens > SLOW_TOKENS and not allow_slow:
        raise ConfigError(
            f"attention backend {backend} on a GPU is too slow for {approximate_tokens(total_tokens)} tokens "
            f"(varlen: {missing['varlen'] or 'can run here'}; flash: {missing['flash'] or 'can run here'})",
            "mend what is missing, or set hardware.allow_slow_attention=true",
        )
    return backend, _line(machine, backend, requested, missing)


def has_kernels_for(machine: Machine) -> bool:
    """Return whether torch's build runs on the GPU: made for its generation, or able to compile for it (PTX)."""
    if machine.capability is None or any(each.startswith("gfx") for each in machine.architectures):  # none, or ROCm
        return True
    major, minor = machine.capability
    for architecture in machine.architectures:
        kind, _, digits = architecture.partition("_")
        if not digits.isdigit():  # sm_90a: for that very GPU only, and listed beside sm_90
            continue
        built_major, built_minor = divmod(int(digits), 10)
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= (major, minor):
            return True
    return False


def _line(machine: Machine, backend: str, requested: str, missing: dict[str, str | None]) -> str:
    line = f"attention: {backend} ({'chosen' if requested == 'auto' else 'as asked'})"
    if backend == "varlen":
        by_module = machine.varlen_module_has_window
        return f"{line}, by {'torch.nn.attention.varlen' if by_module else 'the operator under torch'}"
    if backend == "flash":
        return f"{line}, by the package flash-attn"
    if machine.device_type == "cpu":
        return line if backend == "blocked" else f"{line}; faster here: hardware.attention_backend=blocked"
    runnable = [name for name, lack in missing.items() if not lack]
    if runnable:
        return f"{line}; faster here: hardware.attention_backend={runnable[0]}"
    return f"{line}; a faster one (varlen, flash) needs {_NEEDS}; here: {missing['varlen']}"


def _missing(backend: str, machine: Machine, half_precision: bool, head_width: int) -> str | None:
    """Return what keeps ``varlen`` or ``flash`` from running, or None."""
    if backend == "flash" and not machine.flash_attn_installed:
        return "the package flash-attn is not installed (padless has an extra [flash])"
    if machine.device_type != "cuda" or machine.capability is None:
        return f"the device is {machine.device_type}, not a CUDA GPU"
    if not half_precision:
        return "activations are fp32, and the kernel takes bf16 or fp16"
    if machine.capability < (8, 0):
        return f"the GPU's compute capability is {_dotted(machine.capability)}, below 8.0"
    if backend == "varlen" and not machine.torch_has_flash:
        return "this torch was built without FlashAttention"
    if head_width > _WIDEST_HEAD or (backend == "varlen" and head_width % _HEAD_GRID):
        return f"the model's heads are {head_width} wide, and the kernel takes multiples of 8 up to {_WIDEST_HEAD}"
    return None


def _dotted(capability: tuple[int, int] | None) -> str:
    return "none" if capability is None else f"{capability[0]}.{capability[1]}"
