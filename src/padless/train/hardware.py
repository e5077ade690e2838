"""Device, precision, attention backend and compiling of this run: chosen once at start, said in one line each."""

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Literal

import torch

from padless.allocator import keep_few_kernels, keep_freed_memory
from padless.attention.select import choose_backend
from padless.config.schema import Config
from padless.errors import ConfigError
from padless.kernels.select import kernels_line
from padless.model.compiler import choose_compile
from padless.plan.devices import peak_flops
from padless.train.world import World

_MATMUL_SIZE, _MATMUL_TRIES = 768, 3


@dataclass(frozen=True)
class Compute:
    """Where and in which precision the model runs. Parameters, moments and the loss stay fp32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    backend: str
    peak_flops: float | None = None  # of the device, operations a second, for this precision; None if not known
    compiles: bool = False  # the encoder's layers

    @property
    def scales_loss(self) -> bool:
        """Whether gradients need a loss scale to be held: in fp16."""
        return self.autocast_dtype == torch.float16

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)


Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_WORDS = {
    "fp32": "fp32",
    "bf16": "bf16 autocast, fp32 weights",
    "fp16": "fp16 autocast with a loss scale, fp32 weights",
}


def choose_precision(requested: str, capability: tuple[int, int] | None) -> Precision:
    """Return the precision of this run.

    bf16 where a GPU computes it natively (compute capability 8.0 and up), fp16 on a GPU before that; a CPU takes fp32
    unless ``hardware.precision=bf16`` asks otherwise, since results then stay bit-equal across resumes and machines.

    Args:
        requested: ``hardware.precision``.
        capability: compute capability of the GPU; None on a CPU.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if capability is None and requested == "fp16":
        raise ConfigError(
            "hardware.precision=fp16 needs a GPU, and the device is a CPU",
            "use hardware.precision=fp32, or bf16, which needs no loss scaling",
        )
    if requested in ("fp32", "bf16", "fp16"):
        return requested
    if capability is None:
        return "fp32"
    return "bf16" if capability[0] >= 8 else "fp16"


def choose_compute(config: Config, world: World) -> tuple[Compute, list[str]]:
    """Return the choice and the lines that say it.

    Raises:
        ConfigError: precision, attention backend or compiling cannot be had here.
    """
    device = world.torch_device
    capability = torch.cuda.get_device_capability(device) if world.is_gpu else None
    precision = choose_precision(config.hardware.precision, capability)
    if device.type == "cpu":
        keep_few_kernels()  # before the product that measures the peak, earlier than the backend does it
    if world.is_gpu:  # Composer lets every matrix product in fp32 be one in TF32, which keeps 10 of its 23 bits
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if config.hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    total_tokens = sum(phase.tokens for phase in config.phases.values())
    backend, backend_line = choose_backend(
        config.hardware.attention_backend,
        device.type,
        total_tokens,
        config.hardware.allow_slow_attention,
        half_precision=precision != "fp32",
        head_width=config.model.hidden_size // config.model.num_heads,
    )
    compiles, compile_line = choose_compile(config.hardware.compile, device.type)
    name = torch.cuda.get_device_name(device) if world.is_gpu else f"{torch.get_num_threads()} CPU threads"
    peak, peak_line = _find_peak(device, precision)
    lines = [f"hardware: {world.size} x {device.type} ({name}), {_WORDS[precision]}; {peak_line}", backend_line]
    if device.type == "cpu":
        if keep_freed_memory():
            lines.append("allocator: memory that a step frees is kept for the next")
    else:
        lines.append(kernels_line(device.type))
    if compile_line is not None:
        lines.append(compile_line)
    return Compute(device, _DTYPES[precision], backend, peak, compiles), lines


def _find_peak(device: torch.device, precision: Precision) -> tuple[float | None, str]:
    """Return what the share of the device's arithmetic (MFU) is measured against, and the words that say it."""
    if device.type == "cpu":
        flops = measure_matmul_flops(_DTYPES[precision] or torch.float32)
        return flops, f"MFU against {flops / 1e9:,.0f} GFLOP/s, a matrix product just now"
    flops = peak_flops(torch.cuda.get_device_name(device)) if precision != "fp32" else None
    if flops is None:
        return None, "MFU not known: no peak for this device in this precision"
    return flops, f"MFU against {flops / 1e12:,.0f} TFLOP/s, its data sheet's dense peak"


def measure_matmul_flops(dtype: torch.dtype) -> float:
    """Return the operations a second of this process's threads in a square matrix product; takes some 50 ms.

    Draws no random numbers, so that it changes nothing that comes after it.
    """
    a = torch.full((_MATMUL_SIZE, _MATMUL_SIZE), 0.5, dtype=dtype)
    out = torch.mm(a, a)
    best_s = float("inf")
    for _ in range(_MATMUL_TRIES):
        began_s = time.perf_counter()
        torch.mm(a, a, out=out)
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * _MATMUL_SIZE**3 / best_s
