"""What of a compiler's tools is here. Triton has a C compiler build the code that launches each kernel, at run time.

That code includes Python.h. A container image without a compiler has Triton all the same, as a part of torch, and would
fail at the first step.
"""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


def has_triton() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def has_c_compiler() -> bool:
    """Return whether the C compiler that Triton calls is there (``CC``, else gcc or clang)."""
    return _is_there("CC", "gcc", "clang")


def has_cxx_compiler() -> bool:
    """Return whether the C++ compiler that torch.compile calls on a CPU is there (``CXX``, else g++)."""
    return _is_there("CXX", "g++")


def has_python_headers() -> bool:
    """Return whether Python.h is where both look for it."""
    return (Path(sysconfig.get_paths("posix_prefix")["include"]) / "Python.h").is_file()


def missing_to_launch() -> str | None:
    """Return what keeps Triton from launching a kernel on any GPU, or None."""
    if not has_triton():
        return "Triton is not installed"
    if not has_c_compiler():
        return "Triton finds no C compiler (install gcc or clang, or name one in CC)"
    if not has_python_headers():
        return "Python.h is missing (install Python's headers, the package python3-dev)"
    return None


def _is_there(variable: str, *names: str) -> bool:
    """Return whether the compiler that a variable of the environment names is there, or one of the usual ones."""
    told = os.environ.get(variable)
    return any(shutil.which(name) is not None for name in ((told,) if told else names))
