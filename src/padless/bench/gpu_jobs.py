"""What ``padless bench gpu`` has a process do: train steps, attention alone, and the way of batches to the device.

Each job is a function of plain settings and returns plain figures, so that it can run in a process of its own, on any
device: times are taken with the device's work finished, and on a CPU the same code is tested.

Legend: T packed tokens, N heads, H head width, 3 = query, key, value.
"""

import importlib
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from padless.attention.api import SegmentLayout
from padless.attention.select import choose_backend, get_backend
from padless.bench.batches import finish, packed_batch
from padless.bench.lengths import CASES, Workload, draw_workload
from padless.bench.shapes import OPTIMIZER, PEAK_LR, ROPE, WEIGHT_DECAY, shape_of
from padless.config.schema import ModelConfig
from padless.data.batch import PackedBatch
from padless.data.collate import masked_rows
from padless.kernels.select import kernels_line
from padless.model.compiled import compile_layers, compile_line
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer
from padless.plan.devices import peak_flops
from padless.plan.flops import step_flops

MASK_RATE = 0.3
_ATTENTION_LENGTHS = (128, 1024, 8192)


def device_batch(workload: Workload, number: int, tokens: int) -> PackedBatch:
    """Return batch ``number``, its masked positions filled up to the fixed number of rows."""
    return packed_batch(workload, number, tokens, masked_rows(tokens, MASK_RATE))


def half_precision(device: torch.device) -> torch.dtype:
    """Return bf16, or fp16 on a GPU without it."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return torch.bfloat16


def step_job(
    device_type: str, shape: str, case: str, steps: int, warmup: int, tokens: int, seed: int, is_compiled: bool
) -> dict[str, Any]:
    """Train: forward, backward, optimizer, batch after batch from pinned memory.

    Returns:
        ``tokens_per_s`` (real ones), ``mfu`` (or None), ``peak_gb``, ``host_share`` (of the time, until the last step
        was told to the device) and ``lines`` that say what ran.
    """
    device, model = torch.device(device_type), shape_of(shape)
    workload = draw_workload(CASES[case], steps + warmup, tokens, model.vocab_size, seed, MASK_RATE)
    batches = [_pinned(device_batch(workload, number, tokens), device) for number in range(steps + warmup)]
    width = model.hidden_size // model.num_heads
    backend, line = choose_backend("auto", device_type, tokens, allow_slow=True, head_width=width)
    network = MaskedLM(model, ROPE, backend)
    initialise(network, seed)
    network.to(device).train()
    if is_compiled:
        compile_layers(network)
    optimizer, dtype = _optimizer(network, device_type == "cuda"), half_precision(device)

    def step(batch: PackedBatch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device_type, dtype):
            loss = network(batch.to(device))
        loss.backward()
        optimizer.step()

    for batch in batches[:warmup]:
        step(batch)
    finish(device)
    _forget_peak(device)
    began_s = time.perf_counter()
    for batch in batches[warmup:]:
        step(batch)
    told_s = time.perf_counter() - began_s
    finish(device)
    wall_s = time.perf_counter() - began_s
    timed = batches[warmup:]
    lines = [line, kernels_line(device_type), *([compile_line()] if is_compiled else [])]
    return {
        "tokens_per_s": sum(batch.num_real_tokens for batch in timed) / wall_s,
        "mfu": _mfu(model, workload, range(warmup, warmup + steps), device, wall_s),
        "peak_gb": _peak_gb(device),
        "host_share": told_s / wall_s,
        "lines": lines,
    }


def attention_job(device_type: str, shape: str, tokens: int, repeats: int) -> dict[str, Any]:
    """Attention alone, forward and backward, by backend, length and kind of layer.

    Returns:
        Real tokens a second, ``repeats`` values each, by ``backend length kind``, of the backends that can run.
    """
    device, model = torch.device(device_type), shape_of(shape)
    width = model.hidden_size // model.num_heads
    figures: dict[str, list[float]] = {}
    windows = {"global": None, "local": model.local_window_tokens}
    for backend, length in itertools.product(_runnable(device_type), _ATTENTION_LENGTHS):
        if length > tokens:
            continue
        layout = SegmentLayout.from_lengths((length,) * (tokens // length), device)
        shape_T3NH = (layout.num_tokens, 3, model.num_heads, width)
        qkv_T3NH = torch.randn(shape_T3NH, device=device).to(half_precision(device)).requires_grad_()
        for kind, window_tokens in windows.items():
            attend = get_backend(backend)

            def work() -> None:
                attend(qkv_T3NH, layout, window_tokens).sum().backward()  # noqa: B023  (called within this pass)

            work()
            rates = [layout.num_tokens / _seconds(work, device) for _ in range(repeats)]
            figures[f"{backend} {length} {kind}"] = rates
    return {"tokens_per_s": figures}


def feed_job(device_type: str, shape: str, case: str, tokens: int, seed: int, repeats: int) -> dict[str, Any]:
    """The host's work a batch: collate masked documents, pin, copy to the device.

    Returns:
        Real tokens a second, a value a pass.
    """
    device, model, count = torch.device(device_type), shape_of(shape), 8
    workload = draw_workload(CASES[case], count, tokens, model.vocab_size, seed, MASK_RATE)

    def work() -> None:
        for number in range(count):
            _pinned(device_batch(workload, number, tokens), device).to(device)

    work()
    real = sum(sum(workload.lengths(numbers)) for numbers in workload.packed)
    return {"tokens_per_s": [real / _seconds(work, device) for _ in range(repeats)]}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"step": step_job, "attention": attention_job, "feed": feed_job}


def _pinned(batch: PackedBatch, device: torch.device) -> PackedBatch:
    return batch.pin() if device.type == "cuda" else batch


def _optimizer(network: MaskedLM, is_gpu: bool) -> torch.optim.Optimizer:
    """Return the optimizer that the trainer builds, as a run does."""
    return build_optimizer(network, OPTIMIZER, PEAK_LR, WEIGHT_DECAY, is_gpu)


def _runnable(device_type: str) -> list[str]:
    if device_type != "cuda":
        return ["sdpa"]
    backends = ["sdpa"]
    for name in ("varlen", "flash"):
        if importlib.util.find_spec("flash_attn") is None and name == "flash":
            continue
        if torch.cuda.get_device_capability() >= (8, 0):
            backends.append(name)
    return backends


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    finish(device)
    began_s = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began_s


def _mfu(model: ModelConfig, workload: Workload, numbers: range, device: torch.device, wall_s: float) -> float | None:
    """Return the share of the device's peak that necessary arithmetic took, or None where the peak is not known."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peak is None:
        return None
    packed = [workload.packed[number] for number in numbers]
    flops = sum(step_flops(model, workload.lengths(each), workload.masked(each)) for each in packed)
    return flops / wall_s / peak


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def main() -> None:
    """Read one job from standard input, do it, and write its figures as the last line of standard output."""
    told = json.loads(sys.stdin.read())
    figures = JOBS[told.pop("job")](**told)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
