"""Device, precision and attention backend of this run: chosen once at start, said in one line each."""

import contextlib
import os
from dataclasses import dataclass

import torch

from padless.attention.select import choose_backend
from padless.config.schema import Config
from padless.train.world import World


@dataclass(frozen=True)
class Compute:
    """Where and in which precision the model runs. Parameters, moments and the loss stay fp32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    backend: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)


def choose_compute(config: Config, world: World) -> tuple[Compute, list[str]]:
    """Return the choice and the lines that say it.

    bf16 autocast is taken where a GPU computes it natively (compute capability 8.0 and up); a CPU takes fp32 unless
    ``hardware.precision=bf16`` asks otherwise, since results then stay bit-equal across resumes and machines.
    """
    device = world.torch_device
    requested = config.hardware.precision
    native_bf16 = world.is_gpu and torch.cuda.get_device_capability(device)[0] >= 8
    use_bf16 = requested == "bf16" or (requested == "auto" and native_bf16)
    if config.hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    total_tokens = sum(phase.tokens for phase in config.phases.values())
    backend, backend_line = choose_backend(
        config.hardware.attention_backend, device.type, total_tokens, config.hardware.allow_slow_attention, use_bf16
    )
    name = torch.cuda.get_device_name(device) if world.is_gpu else f"{torch.get_num_threads()} CPU threads"
    precision = "bf16 autocast, fp32 weights" if use_bf16 else "fp32"
    lines = [f"hardware: {world.size} x {device.type} ({name}), {precision}", backend_line]
    return Compute(device, torch.bfloat16 if use_bf16 else None, backend), lines
