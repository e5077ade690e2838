"""Our Triton kernels: their checks (kernel_checks.py) in a process of their own, and where they are chosen."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from padless.errors import ConfigError
from padless.kernels import select, toolchain

CHECKS = Path(__file__).with_name("kernel_checks.py")


def run_checks(device: str) -> None:
    """Run all checks on ``device`` and show what failed."""
    env = {**os.environ, "KERNEL_DEVICE": device, "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    env.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(CHECKS)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= 20, run.stdout
    assert "skipped" not in run.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_equal_plain_pytorch_under_the_interpreter() -> None:
    run_checks("cpu")


@pytest.mark.gpu
def test_kernels_equal_plain_pytorch_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run_checks("cuda")


@pytest.fixture(autouse=True)
def _decide_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(select.VARIABLE, raising=False)
    select.missing_for_triton.cache_clear()
    yield
    select.missing_for_triton.cache_clear()


def test_a_cpu_has_no_triton_kernels_and_the_line_says_why() -> None:
    assert not select.uses_triton("cpu")
    assert select.kernels_line("cpu") == "kernels: plain; the device is cpu, not a CUDA GPU"


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_a_gpu_with_bf16_takes_the_triton_kernels(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(toolchain, "missing_to_launch", lambda: None)
    assert select.uses_triton("cuda") is runs
    assert select.kernels_line("cuda").startswith("kernels: triton (rotation" if runs else "kernels: plain; the GPU's")


def test_a_machine_without_triton_takes_plain_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "has_triton", lambda: False)
    assert select.kernels_line("cuda") == "kernels: plain, the optimizer's too; Triton is not installed"


@pytest.mark.parametrize(
    ("tool", "lacking"), [("has_c_compiler", "Triton finds no C compiler"), ("has_python_headers", "Python.h is miss")]
)
def test_an_image_without_a_compiler_takes_plain_operators(
    monkeypatch: pytest.MonkeyPatch, tool: str, lacking: str
) -> None:
    """Triton is a part of torch there, and would fail when it builds the code that launches its first kernel."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for name in ("has_triton", "has_c_compiler", "has_python_headers"):
        monkeypatch.setattr(toolchain, name, lambda: True)
    assert select.uses_triton("cuda")
    select.missing_for_triton.cache_clear()
    monkeypatch.setattr(toolchain, tool, lambda: False)
    assert not select.uses_triton("cuda")
    assert select.kernels_line("cuda").startswith(f"kernels: plain, the optimizer's too; {lacking}")


def test_the_variable_rules_the_kernels_out_and_other_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv(select.VARIABLE, "plain")
    assert select.kernels_line("cuda") == "kernels: plain; PADLESS_KERNELS=plain"
    select.missing_for_triton.cache_clear()
    monkeypatch.setenv(select.VARIABLE, "of")
    with pytest.raises(ConfigError, match=r"PADLESS_KERNELS=of does not exist\n.*auto, plain"):
        select.uses_triton("cuda")


def test_the_model_does_not_import_triton_where_its_kernels_do_not_run() -> None:
    script = "import sys, padless.model.masked_lm, padless.kernels.select; print('triton' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
