"""GPU and attention: what is here is said, what is asked for and not here is named."""

import types

import pytest
import torch

from padless.doctor import compute
from padless.doctor.compute import (
    kernel_difference,
    look_at_attention,
    look_at_compile,
    look_at_gpu,
    look_at_nccl,
    ranks_here,
    run_dtype,
    uses_bf16,
    visible_gpus,
    why_no_gpu,
)

from .conftest import smoke


def gpu(monkeypatch, count, free_bytes=80 << 30, major=9):
    """Answers of torch on a machine with ``count`` GPUs."""
    facts = types.SimpleNamespace(name="H100", major=major, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free_bytes, 80 << 30))


def test_a_cpu_run_looks_for_no_gpu(tmp_path, monkeypatch):
    gpu(monkeypatch, 1)
    config = smoke(tmp_path, "hardware=cpu")
    assert visible_gpus(config.hardware) == 0
    (finding,) = look_at_gpu(config, 0)
    assert finding.state == "ok"


def test_no_gpu_is_a_note_unless_one_is_asked_for(tmp_path):
    (free,) = look_at_gpu(smoke(tmp_path), 0)
    (asked,) = look_at_gpu(smoke(tmp_path, "hardware.device=gpu"), 0)
    assert (free.state, asked.state) == ("note", "mend")
    assert asked.found.startswith("hardware.device=gpu, but ")
    assert "hardware=cpu" in str(asked.remedy)


def test_why_there_is_no_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() == "CUDA_VISIBLE_DEVICES='' hides every GPU"
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "is built for CPUs only" in why_no_gpu()


def test_gpus_are_listed_with_their_memory(tmp_path, monkeypatch):
    gpu(monkeypatch, 2)
    first, second = look_at_gpu(smoke(tmp_path), 2)
    assert first.state == second.state == "ok"
    assert first.found.startswith("0: H100, compute capability 9.0, bf16, 80 GiB free of 80 GiB")


def test_a_gpu_that_others_use_is_a_note(tmp_path, monkeypatch):
    gpu(monkeypatch, 1, free_bytes=10 << 30)
    (finding,) = look_at_gpu(smoke(tmp_path), 1)
    assert (finding.state, "another process uses its memory" in finding.found) == ("note", True)


def test_a_model_that_a_gpu_cannot_hold_is_named(tmp_path, monkeypatch):
    gpu(monkeypatch, 1)
    (finding,) = look_at_gpu(smoke(tmp_path, "model.hidden_size=100000", "model.intermediate_size=100000"), 1)
    assert finding.state == "mend"


@pytest.mark.parametrize(("ranks", "state"), [(8, "note"), (3, "mend"), (2, None)])
def test_ranks_are_compared_with_the_gpus_of_a_machine(tmp_path, monkeypatch, ranks, state):
    gpu(monkeypatch, 2)
    found = list(look_at_gpu(smoke(tmp_path, f"hardware.world_size={ranks}"), 2))[2:]
    assert [finding.state for finding in found] == ([state] if state else [])


def test_ranks_of_this_machine_are_the_launcher_s_or_one_a_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    sixteen = smoke(tmp_path, "hardware.world_size=16").hardware
    assert ranks_here(sixteen, 8) == 8
    assert ranks_here(sixteen, 0) == 16
    assert ranks_here(smoke(tmp_path).hardware, 4) == 4
    assert ranks_here(smoke(tmp_path).hardware, 0) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert ranks_here(sixteen, 8) == 3


def test_precision_follows_the_gpu(tmp_path, monkeypatch):
    gpu(monkeypatch, 1, major=7)
    assert not uses_bf16(smoke(tmp_path).hardware, 1)
    assert not uses_bf16(smoke(tmp_path).hardware, 0)
    gpu(monkeypatch, 1, major=9)
    assert uses_bf16(smoke(tmp_path).hardware, 1)
    assert uses_bf16(smoke(tmp_path, "hardware.precision=bf16").hardware, 0)


@pytest.mark.parametrize(
    ("precision", "major", "gpus", "dtype"),
    [
        ("auto", 7, 1, torch.float16),
        ("auto", 9, 1, torch.bfloat16),
        ("auto", 9, 0, torch.float32),
        ("fp16", 9, 1, torch.float16),
        ("fp32", 9, 1, torch.float32),
    ],
)
def test_the_kernel_is_tried_in_what_a_run_computes_in(tmp_path, monkeypatch, precision, major, gpus, dtype):
    """A T4 runs in fp16; varlen with fp16 on an H100 is no error."""
    gpu(monkeypatch, gpus, major=major)
    config = smoke(tmp_path, f"hardware.precision={precision}")
    assert run_dtype(config.hardware, gpus) == dtype
    asked = {}
    monkeypatch.setattr(compute, "kernel_difference", lambda name, device, dtype, width: asked.update(dtype=dtype) or 0)
    monkeypatch.setattr(compute, "choose_backend", lambda *args, **told: asked.update(told) or ("sdpa", "attention: x"))
    _, attention = look_at_attention(config, gpus)
    assert attention.state == "ok"
    assert asked == {"dtype": dtype, "half_precision": dtype != torch.float32, "head_width": 32}


def test_the_chosen_kernel_is_tried(tmp_path):
    kernels, attention = look_at_attention(smoke(tmp_path), 0)
    assert (kernels.state, attention.state) == ("ok", "ok")
    assert attention.found.startswith("blocked (chosen)")
    assert 0 < kernel_difference("sdpa", torch.device("cpu"), torch.float32) < 1e-5


def test_a_kernel_that_computes_something_else_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "get_backend", lambda name: lambda qkv, layout, window: qkv[:, 2])
    finding = list(look_at_attention(smoke(tmp_path), 0))[1]
    assert finding.state == "mend"
    assert "more than 1e-05" in finding.found


def test_a_kernel_is_not_judged_without_the_gpu_it_is_for(tmp_path):
    finding = list(look_at_attention(smoke(tmp_path, "hardware.device=gpu"), 0))[1]
    assert finding.state == "note"


@pytest.mark.parametrize(
    ("settings", "gpus", "state", "found"),
    [
        (["hardware.compile=auto"], 0, "ok", "off"),
        (["hardware.compile=off"], 1, "ok", "off (as asked)"),
        (["hardware.compile=auto"], 1, "note", "off; Triton "),
        (["hardware.device=gpu"], 0, "note", "compile=auto cannot be judged without the GPU"),
    ],
)
def test_a_gpu_whose_layers_are_not_compiled_is_a_note(tmp_path, monkeypatch, settings, gpus, state, found):
    gpu(monkeypatch, gpus)
    monkeypatch.setenv("CC", "no-such-compiler")
    (finding,) = look_at_compile(smoke(tmp_path, *settings), gpus)
    assert finding.state == state
    assert finding.found.startswith(found)


def test_a_flash_attn_that_does_not_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    kernels = next(iter(look_at_attention(smoke(tmp_path), 0)))
    assert kernels.state == "mend"
    assert "cannot be imported: undefined symbol: _ZN3c10" in kernels.found


def test_nccl_is_not_tried_without_a_gpu_and_asked_for_with_one(monkeypatch):
    (finding,) = look_at_nccl(0)
    assert finding.state == "ok"
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    (finding,) = look_at_nccl(1)
    assert (finding.state, "built without NCCL" in finding.found) == ("mend", True)
