"""What a process of ``padless design --measure`` does: the machine's own rates, and one shape's forward pass.

On a CPU times are the processor's seconds on one core, in fp32; on a GPU they are wall-clock seconds in half precision
with the device's work finished. The encoder is the project's own with random weights; what they are changes no time.

Legend: T packed tokens, N heads, H head width, 3 = query, key, value.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from padless.attention.api import SegmentLayout
from padless.attention.select import choose_backend, get_backend
from padless.bench.gpu_jobs import half_precision
from padless.bench.machine import cpu_seconds, matmul_ceiling_gflops
from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.design.shapes import HEAD_WIDTH
from padless.model.encoder import Encoder
from padless.plan.flops import attended_pairs

_ROPE = RopeConfig(global_theta=160_000.0, local_theta=10_000.0)
_COPY_BYTES = 256 << 20  # of one tensor: beyond a core's share of the caches
_ATTENTION_TOKENS, _ATTENTION_HEADS = 2048, 12
_FIRST_WORD = 5


def cpu_rates() -> dict[str, float]:
    """Return one core's best rates, in 10^9 a second: matrix products, bytes of a copy, attention's operations."""
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    copying_s = _least_s(lambda: target.copy_(source), 4)
    qkv_T3NH = torch.randn(_ATTENTION_TOKENS, 3, _ATTENTION_HEADS, HEAD_WIDTH)
    lengths = (_ATTENTION_TOKENS,)
    layout = SegmentLayout(torch.tensor([0, _ATTENTION_TOKENS], dtype=torch.int32), lengths)
    attend = get_backend("blocked")
    with torch.inference_mode():
        attending_s = _least_s(lambda: attend(qkv_T3NH, layout, None), 4)
    operations = 4 * HEAD_WIDTH * _ATTENTION_HEADS * attended_pairs(lengths, None)
    return {
        "gflops": matmul_ceiling_gflops("float32", 3),
        "bandwidth_gb_s": 2 * _COPY_BYTES / copying_s / 1e9,
        "attention_gflops": operations / attending_s / 1e9,
    }


def time_shape(model: dict[str, Any], device_type: str, workloads: list[list[int]], repeats: int) -> dict[str, Any]:
    """Return the least seconds of one forward pass of each workload, in order, after one that warms up.

    Args:
        model: fields of :class:`ModelConfig`.
        device_type: ``cpu`` or ``cuda``.
        workloads: number of segments, tokens of each.
        repeats: timings of a workload.
    """
    device, shape = torch.device(device_type), ModelConfig(**model)
    dtype = torch.float32 if device_type == "cpu" else half_precision(device)
    tokens = max(count * length for count, length in workloads)
    width, is_half = shape.hidden_size // shape.num_heads, dtype != torch.float32
    backend, _ = choose_backend("auto", device_type, tokens, True, half_precision=is_half, head_width=width)
    with torch.device(device):
        encoder = Encoder(shape, _ROPE, get_backend(backend)).to(dtype).eval()
    seconds = []
    with torch.inference_mode():
        encoder(_batch(1, min(length for _, length in workloads), shape.vocab_size).to(device))
        for count, length in workloads:
            batch = _batch(count, length, shape.vocab_size).to(device)
            seconds.append(_least_s(lambda batch=batch: encoder(batch), repeats, device_type))
    return {"seconds": seconds, "backend": backend}


def _batch(num_segments: int, segment_tokens: int, vocab_size: int) -> PackedBatch:
    generator = torch.Generator().manual_seed(0)
    lengths = (segment_tokens,) * num_segments
    none = torch.empty(0, dtype=torch.int64)
    return PackedBatch(
        torch.randint(_FIRST_WORD, vocab_size, (sum(lengths),), generator=generator),
        torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        none,
        none,
        lengths,
        segment_tokens,
        sum(lengths),
        0,
    )


def _least_s(work: Callable[[], object], repeats: int, device_type: str = "cpu") -> float:
    if device_type == "cpu":
        return min(cpu_seconds(work) for _ in range(repeats))
    return min(_wall_seconds(work) for _ in range(repeats + 1))  # the first finds kernels


def _wall_seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began_s
