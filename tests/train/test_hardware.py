"""Precision by device, and the matrix product that a CPU's utilisation is measured against."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from composer.devices import DeviceCPU, DeviceGPU

from padless.config.compose import compose
from padless.errors import ConfigError
from padless.kernels import select, toolchain
from padless.train.hardware import Compute, choose_compute, choose_precision, measure_matmul_flops
from padless.train.world import World


@pytest.mark.parametrize(
    ("requested", "capability", "precision"),
    [
        ("auto", None, "fp32"),
        ("auto", (7, 5), "fp16"),
        ("auto", (8, 0), "bf16"),
        ("auto", (9, 0), "bf16"),
        ("bf16", None, "bf16"),
        ("fp16", (9, 0), "fp16"),
        ("fp32", (9, 0), "fp32"),
    ],
)
def test_precision_is_what_was_asked_for_or_what_the_device_computes_natively(requested, capability, precision):
    assert choose_precision(requested, capability) == precision


def test_fp16_on_a_cpu_is_refused_with_what_to_use():
    with pytest.raises(ConfigError, match=r"precision=fp16 needs a GPU, and the device is a CPU\n.*fp32, or bf16"):
        choose_precision("fp16", None)


def test_layers_are_compiled_where_that_was_asked_for_and_a_compiler_is_there(tmp_path, monkeypatch):
    config, alone = compose(["recipe=smoke", "hardware=cpu"]), World(0, 1, DeviceCPU(), None)
    assert not choose_compute(config, alone)[0].compiles
    config = replace(config, hardware=replace(config.hardware, compile="blocks"))
    (tmp_path / "c++").touch(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    compute, lines = choose_compute(config, alone)
    assert compute.compiles
    assert lines[-1] == "compile: blocks (as asked)"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"hardware.compile=blocks cannot run here: there is no C\+\+ compiler"):
        choose_compute(config, alone)


def test_only_fp16_scales_the_loss():
    cpu = torch.device("cpu")
    assert Compute(cpu, torch.float16, "sdpa").scales_loss
    assert not Compute(cpu, torch.bfloat16, "sdpa").scales_loss
    assert not Compute(cpu, None, "sdpa").scales_loss


def test_measuring_the_device_draws_no_random_numbers():
    before = torch.get_rng_state()
    assert measure_matmul_flops(torch.float32) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def h100(monkeypatch):
    """A world on an H100 that is not here: what torch would say of it."""
    said = {
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3",
        "get_device_capability": lambda device=None: (9, 0),
        "get_arch_list": lambda: ["sm_80", "sm_90"],
    }
    for name, function in said.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(toolchain, "missing_to_launch", lambda: None)
    select.missing_for_triton.cache_clear()
    yield World(0, 1, object.__new__(DeviceGPU), None)
    select.missing_for_triton.cache_clear()


def config_of(*settings):
    return compose(["recipe=smoke", "hardware.device=gpu", "hardware.compile=off", *settings])


@pytest.mark.parametrize(("precision", "allowed"), [("auto", True), ("fp32", False)])
def test_fp32_on_a_gpu_is_fp32(h100, monkeypatch, precision, allowed):
    """Composer's device has switched TF32 on by then, for which nobody asked."""
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))
    compute, _ = choose_compute(config_of(f"hardware.precision={precision}"), h100)
    assert compute.autocast_dtype == (torch.bfloat16 if allowed else None)
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.parametrize(("heads", "backend"), [(2, "varlen"), (8, "varlen"), (16, "sdpa")])
def test_heads_that_flash_attention_does_not_take_choose_another_kernel(h100, monkeypatch, heads, backend):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    compute, lines = choose_compute(config_of("model.hidden_size=64", f"model.num_heads={heads}"), h100)
    assert compute.backend == backend
    assert lines[0] == (
        "hardware: 1 x cuda (NVIDIA H100 80GB HBM3), bf16 autocast, fp32 weights; MFU against 990 TFLOP/s, its data "
        "sheet's dense peak"
    )
    assert lines[2] == "kernels: triton (rotation in place, fused cross-entropy)"
