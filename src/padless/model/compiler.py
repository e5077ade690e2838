"""Whether the encoder's layers are compiled: chosen once at start, said in one line on a GPU.

    off      never
    auto     on a GPU where all of it is there: Triton, a C compiler, Python's headers
    blocks   always; an error where something is missing

torch.compile itself asks for these at the first step only, after minutes (:mod:`padless.kernels.toolchain`). The choice
is a function of a :class:`Machine`, so it is tested on machines that are not at hand.
"""

from dataclasses import dataclass

import torch

from padless.errors import ConfigError
from padless.kernels import toolchain

_LEAST_CAPABILITY = (7, 0)  # of torch.compile on a CUDA GPU: below, it has no Triton code


@dataclass(frozen=True)
class Machine:
    """What the choice depends on."""

    device_type: str  # cpu, cuda, ...
    capability: tuple[int, int] | None  # compute capability of the GPU; None where there is none
    has_triton: bool
    has_c_compiler: bool
    has_cxx_compiler: bool
    has_python_headers: bool


def look_at_machine(device_type: str) -> Machine:
    """Return what this process finds, for the current device of that kind."""
    return Machine(
        device_type=device_type,
        capability=torch.cuda.get_device_capability() if device_type == "cuda" else None,
        has_triton=toolchain.has_triton(),
        has_c_compiler=toolchain.has_c_compiler(),
        has_cxx_compiler=toolchain.has_cxx_compiler(),
        has_python_headers=toolchain.has_python_headers(),
    )


def choose_compile(requested: str, device_type: str) -> tuple[bool, str | None]:
    """Return whether layers are compiled, and the line that says so: :func:`choose_for` this machine.

    Raises:
        ConfigError: it was asked for and cannot be done here.
    """
    return choose_for(look_at_machine(device_type), requested)


def choose_for(machine: Machine, requested: str) -> tuple[bool, str | None]:
    """Return whether layers are compiled on ``machine``, and the line that says so; none on a CPU that does not.

    Args:
        machine: what the choice depends on.
        requested: ``hardware.compile``.

    Raises:
        ConfigError: ``blocks`` was asked for and something is missing.
    """
    is_gpu = machine.device_type == "cuda"
    if requested == "off" or (requested == "auto" and not is_gpu):
        return False, "compile: off (as asked)" if is_gpu else None
    missing = _missing(machine)
    if missing is None:
        return True, f"compile: blocks ({'chosen' if requested == 'auto' else 'as asked'})"
    lacking, remedy = missing
    if requested == "blocks":
        raise ConfigError(
            f"hardware.compile=blocks cannot run here: {lacking}",
            f"{remedy}, or use hardware.compile=auto, which compiles where it can",
        )
    return False, f"compile: off; {lacking}; to have it: {remedy}"


def _missing(machine: Machine) -> tuple[str, str] | None:
    """Return what keeps layers from being compiled and how to mend it, or None."""
    if machine.device_type == "cuda":
        if machine.capability is not None and machine.capability < _LEAST_CAPABILITY:
            found = ".".join(map(str, machine.capability))
            return f"the GPU's compute capability is {found}, below 7.0", "take a newer GPU"
        if not machine.has_triton:
            return "Triton is not installed", "install torch from its CUDA index, which brings it"
        if not machine.has_c_compiler:
            return "Triton finds no C compiler", "install gcc or clang, or name one in CC"
    elif not machine.has_cxx_compiler:
        return "there is no C++ compiler", "install g++, or name one in CXX"
    if not machine.has_python_headers:
        return "Python.h is missing", "install Python's headers (the package python3-dev, of this version)"
    return None
