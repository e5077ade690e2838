"""Triton compiles our kernels and the optimizer's for GPUs that are not at hand, down to machine code by its ptxas.

The interpreter of the other tests takes what the compiler refuses (a type that changes within a loop), and has no
limits. What comes out is held to them: registers that did not suffice would show as a stack.
"""

import importlib
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
GENERATIONS = [80, 86, 89, 90]  # A100; A10, RTX 3090; L4, L40S, RTX 4090; H100
_SHARED_BYTES = 48 << 10  # what every GPU gives a program without being asked


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def compile_for(
    capability: int, kernel: Any, values: dict[str, str], constants: dict[str, Any], num_warps: int
) -> None:
    """Compile a kernel; ``values`` are the types of its other arguments, fp32 where nothing is said."""
    triton = importlib.import_module("triton")
    compiler, backend = (importlib.import_module(name) for name in ("triton.compiler", "triton.backends.compiler"))
    signature = {name: "constexpr" if name in constants else values.get(name, "fp32") for name in kernel.arg_names}
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = backend.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    assert compiled.metadata.shared <= _SHARED_BYTES
    cubin = Path("kernel.cubin")
    cubin.write_bytes(compiled.asm["cubin"])
    reader = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if reader.exists():
        usage = subprocess.run([reader, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
        assert " STACK:0 " in usage, usage
        assert " LOCAL:0 " in usage, usage


@pytest.mark.parametrize("capability", GENERATIONS)
@pytest.mark.parametrize("dtype", ["*bf16", "*fp16", "*fp32"])
def test_our_kernels_compile_for_gpus_that_are_not_here(capability: int, dtype: str) -> None:
    rope = importlib.import_module("padless.kernels.triton_rope")
    loss = importlib.import_module("padless.kernels.triton_cross_entropy")
    tables = {"cos_TC": "*fp32", "sin_TC": "*fp32", "row_stride": "i32"}
    for heads, block in ((24, 32), (32, 32)):  # ModernBERT-base and -large: queries and keys of 12 and 16 heads
        constants = {"heads": heads, "pairs": 32, "heads_block": block, "pairs_block": 32}
        compile_for(capability, rope._turn_kernel, {"qkv_TE": dtype, **tables}, constants, 4)
    rows = {"labels_C": "*i64", "loss_C": "*fp32", "log_sum_C": "*fp32", "row_stride": "i32", "vocab_size": "i32"}
    for writes in (True, False):
        constants = {"ignored": -100, "writes_gradient": writes, "block": loss._BLOCK_COLUMNS}
        compile_for(capability, loss._loss_kernel, {"logits_CV": dtype, "bias_V": "*fp32", **rows}, constants, 8)


@pytest.mark.parametrize("capability", [75, *GENERATIONS])
def test_the_optimizer_s_kernels_compile_for_gpus_that_are_not_here(capability: int) -> None:
    """A T4 (7.5) has them too, though it is without ours."""
    optimi = importlib.import_module("optimi.stableadamw")
    float32 = importlib.import_module("triton.language").float32
    sums = {f"{name}_ptr": "*fp32" for name in ("param", "grad", "exp_avg", "exp_avg_sq", "mean_square")}
    values = {**sums, "kahan_ptr": "*u8", "n_elements": "i32"}
    constants = {"update_parameters": True, "BLOCK_SIZE": 1024, "param_dtype": float32}
    compile_for(capability, optimi._stableadamw_exp_avg_kernel, values, constants, 4)
    constants = {"do_weight_decay": True, "kahan_sum": False, "decouple_lr": True, "BLOCK_SIZE": 1024}
    compile_for(capability, optimi._stableadamw_update_kernel, values, constants, 4)
