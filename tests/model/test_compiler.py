"""Whether layers are compiled, on machines of all kinds, and what is said."""

from dataclasses import replace

import pytest

from padless.errors import ConfigError
from padless.model.compiler import Machine, choose_compile, choose_for, look_at_machine

WHOLE = Machine("cuda", (8, 9), True, True, True, True)
MACHINES = {
    "whole": WHOLE,
    "no-triton": replace(WHOLE, has_triton=False),
    "slim-image": replace(WHOLE, has_c_compiler=False, has_cxx_compiler=False, has_python_headers=False),
    "no-headers": replace(WHOLE, has_python_headers=False),
    "no-cxx": replace(WHOLE, has_cxx_compiler=False),
    "pascal": replace(WHOLE, capability=(6, 1)),
    "cpu": Machine("cpu", None, True, True, True, True),
    "cpu-without": Machine("cpu", None, False, False, False, True),
}
CHOICES = [
    ("whole", "auto", True, "compile: blocks (chosen)"),
    ("whole", "blocks", True, "compile: blocks (as asked)"),
    ("whole", "off", False, "compile: off (as asked)"),
    ("no-cxx", "auto", True, "compile: blocks (chosen)"),
    ("no-triton", "auto", False, "compile: off; Triton is not installed; to have it: install torch from its CUDA "
     "index, which brings it"),
    ("slim-image", "auto", False, "compile: off; Triton finds no C compiler; to have it: install gcc or clang, or name "
     "one in CC"),
    ("slim-image", "off", False, "compile: off (as asked)"),
    ("no-headers", "auto", False, "compile: off; Python.h is missing; to have it: install Python's headers (the "
     "package python3-dev, of this version)"),
    ("pascal", "auto", False, "compile: off; the GPU's compute capability is 6.1, below 7.0; to have it: take a newer "
     "GPU"),
    ("cpu", "auto", False, None),
    ("cpu", "off", False, None),
    ("cpu-without", "auto", False, None),
    ("cpu", "blocks", True, "compile: blocks (as asked)"),
]  # fmt: skip
REFUSED = [
    ("no-triton", "Triton is not installed", "CUDA index"),
    ("slim-image", "Triton finds no C compiler", "install gcc or clang, or name one in CC"),
    ("no-headers", "Python.h is missing", "python3-dev"),
    ("pascal", "the GPU's compute capability is 6.1, below 7.0", "take a newer GPU"),
    ("cpu-without", "there is no C\\+\\+ compiler", "install g\\+\\+"),
]


@pytest.mark.parametrize(("name", "requested", "compiles", "line"), CHOICES)
def test_auto_compiles_on_a_gpu_that_has_all_it_takes(name, requested, compiles, line):
    assert choose_for(MACHINES[name], requested) == (compiles, line)


@pytest.mark.parametrize(("name", "cause", "remedy"), REFUSED)
def test_what_was_asked_for_and_cannot_be_is_an_error(name, cause, remedy):
    message = rf"hardware.compile=blocks cannot run here: {cause}\n.*{remedy}.*, or use hardware.compile=auto"
    with pytest.raises(ConfigError, match=message):
        choose_for(MACHINES[name], "blocks")


def test_compilers_are_those_that_triton_and_torch_would_call(tmp_path, monkeypatch):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not look_at_machine("cpu").has_c_compiler
    (tmp_path / "clang").touch(0o755)
    found = look_at_machine("cpu")
    assert (found.has_c_compiler, found.has_cxx_compiler, found.capability) == (True, False, None)
    (tmp_path / "g++").touch(0o755)
    assert look_at_machine("cpu").has_cxx_compiler
    monkeypatch.setenv("CC", "mycc")
    monkeypatch.setenv("CXX", str(tmp_path / "clang"))
    found = look_at_machine("cpu")
    assert (found.has_c_compiler, found.has_cxx_compiler) == (False, True)


def test_a_cpu_says_nothing_of_it():
    assert choose_compile("auto", "cpu") == (False, None)
