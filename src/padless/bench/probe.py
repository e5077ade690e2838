"""How fast this machine trains a model: what ``padless plan --measure`` runs as a process, JSON in, JSON out.

The real step without loader and other ranks: forward and backward pass of the masked language model on drawn blocks,
then the optimizer, each timed with the device's work finished. Where the whole model would take too long, two models
with fewer layers are measured, one and two periods of global and local layers, and the time of the rest follows from
their difference, by necessary FLOPs:

    seconds
      |             .  whole model        time(F) = t1 + (t2 - t1) / (F2 - F1) x (F - F1)
      |       x  t2
      |   x  t1
      +---F1--F2----F---- FLOPs

Legend: T packed tokens, M masked positions.
"""

import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from padless.attention.select import choose_backend
from padless.bench.batches import finish
from padless.bench.machine import describe_machine
from padless.config.schema import ModelConfig, OptimizerConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.data.collate import Block, MaskedBlock, collate, masked_rows
from padless.model.compiled import compile_layers
from padless.model.compiler import choose_compile
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer
from padless.plan.flops import step_flops

_PEAK_LR, _WEIGHT_DECAY = 1e-4, 1e-5
_LEAST_STEPS, _MOST_STEPS = 1, 50
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Timing:
    """One depth of one kind of step."""

    layers: int
    flops: int  # necessary ones of a microbatch
    seconds: float  # median of forward and backward pass
    optimizer_s: float  # median
    parameters: int
    steps: int


@dataclass(frozen=True)
class Setting:
    """What all kinds of step share."""

    model: ModelConfig
    optimizer: OptimizerConfig
    rope: RopeConfig
    device: torch.device
    precision: str
    backend: str
    is_compiled: bool
    microbatch_blocks: int


def probe(
    model: dict[str, Any],
    optimizer: dict[str, Any],
    rope: dict[str, Any],
    microbatch_blocks: int,
    precision: str,
    device: str,
    backend: str,
    compile: str,
    num_threads: int | None,
    phases: Sequence[dict[str, Any]],
    budget_s: float = 0.0,
) -> dict[str, Any]:
    """Return the speed of each kind of step.

    Args:
        model: fields of a ModelConfig.
        optimizer: fields of an OptimizerConfig.
        rope: fields of a RopeConfig.
        microbatch_blocks: blocks at once; on a CPU one, whatever is asked.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu or gpu.
        backend: of attention, or auto.
        compile: auto, off or blocks.
        num_threads: of a CPU; None takes torch's choice.
        phases: of each, ``blocks`` (lists of segment lengths) and ``mask_rate``; none only asks what is here.
        budget_s: seconds for all of them.

    Returns:
        ``device_type``, ``name``, ``threads``; ``phases`` with ``flops_per_s`` of the whole model, the ``depths``
        measured and the ``steps``; ``optimizer_s_per_parameter``; ``processor_share``, of its threads' time that this
        process computed in: on a CPU low where others want the machine.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    is_gpu = device != "cpu" and torch.cuda.is_available()
    found: dict[str, Any] = {
        "device_type": "cuda" if is_gpu else "cpu",
        "name": torch.cuda.get_device_name() if is_gpu else describe_machine()["processor"] or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if not phases:
        return found
    shape, computes_in = ModelConfig(**model), _precision(precision, is_gpu)
    attention, _ = choose_backend(
        backend,
        found["device_type"],
        0,
        allow_slow=True,
        half_precision=computes_in != "fp32",
        head_width=shape.hidden_size // shape.num_heads,
    )
    setting = Setting(
        shape,
        OptimizerConfig(**optimizer),
        RopeConfig(**rope),
        torch.device(found["device_type"]),
        computes_in,
        attention,
        choose_compile(compile, found["device_type"])[0],
        microbatch_blocks if is_gpu else 1,
    )
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    timings = [measure_kind(setting, kind["blocks"], kind["mask_rate"], budget_s / len(phases)) for kind in phases]
    per_parameter = [each.optimizer_s / each.parameters for kind in timings for each in kind]
    found["phases"] = [
        {
            "flops_per_s": flops_per_s(kind, _flops(setting, phase["blocks"], phase["mask_rate"])),
            "depths": [each.layers for each in kind],
            "steps": sum(each.steps for each in kind),
        }
        for kind, phase in zip(timings, phases, strict=True)
    ]
    threads_s = (time.perf_counter() - began_s) * found["threads"]
    found["processor_share"] = (time.process_time() - began_cpu_s) / threads_s
    found["optimizer_s_per_parameter"] = statistics.median(per_parameter)
    return found


def flops_per_s(timings: Sequence[Timing], whole_flops: int) -> float:
    """Return the rate of the whole model, extrapolated by FLOPs where only parts were measured."""
    first, last = timings[0], timings[-1]
    if first.layers == last.layers:
        return last.flops / last.seconds
    slope = (last.seconds - first.seconds) / (last.flops - first.flops)
    if slope <= 0:  # noise: what was measured longest stands for all
        return last.flops / last.seconds
    return whole_flops / (first.seconds + slope * (whole_flops - first.flops))


def measure_kind(setting: Setting, blocks: list[list[int]], mask_rate: float, budget_s: float) -> list[Timing]:
    """Return the timing of the whole model where that fits the time, else of one and of two periods of layers."""
    layers, period = setting.model.num_layers, setting.model.global_every_layers
    if layers <= period:
        return [_time(setting, layers, blocks, mask_rate, budget_s)]
    began_s = time.perf_counter()
    first = _time(setting, period, blocks, mask_rate, budget_s / 4)
    left_s = budget_s - (time.perf_counter() - began_s)
    whole_s = (1 + _LEAST_STEPS) * first.seconds * layers / period
    if whole_s <= left_s or layers <= 2 * period:
        return [_time(setting, layers, blocks, mask_rate, left_s)]
    return [first, _time(setting, 2 * period, blocks, mask_rate, left_s)]


def _time(setting: Setting, layers: int, blocks: list[list[int]], mask_rate: float, budget_s: float) -> Timing:
    """Train with so many layers, a step to warm up first, until the time is over; one step at least."""
    device, is_gpu = setting.device, setting.device.type == "cuda"
    model = dataclasses.replace(setting.model, num_layers=layers)
    network = MaskedLM(model, setting.rope, setting.backend)
    initialise(network, 0)
    network.to(device).train()
    if setting.is_compiled:
        compile_layers(network)
    optimizer = build_optimizer(network, setting.optimizer, _PEAK_LR, _WEIGHT_DECAY, is_gpu)
    batches = _batches(setting, blocks, mask_rate)
    passes, updates = [], []
    began_s = time.perf_counter()
    for number in range(1 + _MOST_STEPS):
        if number > _LEAST_STEPS and time.perf_counter() - began_s > budget_s:
            break
        optimizer.zero_grad(set_to_none=True)
        batch = batches[number % len(batches)].to(device)
        finish(device)
        start_s = time.perf_counter()
        with torch.autocast(device.type, _DTYPES.get(setting.precision), enabled=setting.precision != "fp32"):
            loss = network(batch)
        loss.backward()
        finish(device)
        passed_s = time.perf_counter()
        optimizer.step()
        finish(device)
        passes.append(passed_s - start_s)
        updates.append(time.perf_counter() - passed_s)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    flops = _flops(dataclasses.replace(setting, model=model), blocks, mask_rate)
    return Timing(
        layers, flops, statistics.median(passes[1:]), statistics.median(updates[1:]), parameters, len(passes) - 1
    )


def _flops(setting: Setting, blocks: list[list[int]], mask_rate: float) -> int:
    """Return the necessary FLOPs of a microbatch, the mean over those that are made of the blocks."""
    groups = _groups(setting, blocks)
    return sum(_group_flops(setting.model, group, mask_rate) for group in groups) // len(groups)


def _group_flops(model: ModelConfig, group: list[list[int]], mask_rate: float) -> int:
    lengths = [length for block in group for length in block]
    return step_flops(model, lengths, round(mask_rate * sum(lengths)))


def _groups(setting: Setting, blocks: list[list[int]]) -> list[list[list[int]]]:
    """Return microbatches as lists of blocks; blocks are used again where there are not enough."""
    count = setting.microbatch_blocks
    return [[blocks[(first + place) % len(blocks)] for place in range(count)] for first in range(len(blocks))]


def _batches(setting: Setting, blocks: list[list[int]], mask_rate: float) -> list[PackedBatch]:
    """Return microbatches of random tokens, of which exactly the rate's share is masked."""
    generator = np.random.default_rng(0)
    tokens = sum(blocks[0])
    made = []
    for lengths in blocks:
        ids_T = generator.integers(5, setting.model.vocab_size, tokens)
        positions_M = np.sort(generator.choice(tokens, round(mask_rate * tokens), replace=False))
        block = Block("probe", len(made), ids_T, np.array(lengths, dtype=np.int32))
        made.append(MaskedBlock(block, ids_T, positions_M))
    count = setting.microbatch_blocks
    rows = masked_rows(count * tokens, mask_rate) if setting.device.type == "cuda" else None
    longest = max(max(lengths) for lengths in blocks)
    groups = [[made[(first + place) % len(made)] for place in range(count)] for first in range(len(made))]
    return [collate(group, tokens, longest, 0, rows) for group in groups]


def _precision(asked: str, is_gpu: bool) -> str:
    """Return what a run would compute in: bf16 on a GPU that has it, fp16 on another, fp32 on a CPU."""
    if asked != "auto":
        return asked
    if not is_gpu:
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"


def main() -> None:
    """Read one task from standard input, do it, and write its figures as the last line of standard output."""
    figures = probe(**json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
