"""Precision by device, and the matrix product that a CPU's utilisation is measured against."""

from dataclasses import replace

import pytest
import torch
from composer.devices import DeviceCPU

from padless.config.compose import compose
from padless.errors import ConfigError
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
