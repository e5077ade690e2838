"""``padless plan --measure``: the speed of this machine instead of the efficiency model's.

A process of its own (:mod:`padless.bench.probe`, which has torch) trains the real model on drawn segments of each phase
for about two minutes in all (on a slow CPU, large models take more); here its task is written and its figures are read.
"""

import dataclasses
import json
import os
import random
from collections.abc import Callable
from typing import Any

from padless.config.schema import Config
from padless.errors import ConfigError
from padless.plan.devices import CPU_CORE, gpu_of_driver
from padless.plan.estimate import Speed, all_phases, mean_mask_rate
from padless.plan.hardware import Machine, machine_of
from padless.plan.lengths import Segments
from padless.plan.streams import data_of_phase
from padless.processes import run_module

BUDGET_S = 120.0
_SAMPLE_BLOCKS = 4
_BUSY_BELOW = 0.7
_CPU_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class Present:
    """The device of this machine, as the probe found it."""

    device_type: str  # cpu or cuda
    name: str
    threads: int  # of a rank, on a CPU


def look(config: Config) -> Present:
    """Return what a run of this configuration would use here.

    Raises:
        TrainingError: the process failed.
    """
    found = run_probe({"phases": [], **_setting(config)})
    return Present(found["device_type"], found["name"], found["threads"])


def machine_here(present: Present, named: Machine | None) -> Machine:
    """Return the machine that a plan measures for: as many of the present device as the hardware named has.

    Args:
        present: the device found.
        named: what ``gpus=`` or ``hardware=`` says; None where nothing was named.

    Raises:
        ConfigError: another device is named, or a GPU that is not in the table is here.
    """
    if present.device_type == "cpu":
        cores = present.threads
        device = dataclasses.replace(
            CPU_CORE, peak_tflops=cores * CPU_CORE.peak_tflops, usd_per_hour=cores * CPU_CORE.usd_per_hour
        )
    else:
        known = gpu_of_driver(present.name)
        if known is None:
            raise ConfigError(
                f"this machine's GPU, {present.name}, is not in the table",
                "add its data sheet to src/padless/plan/devices.py",
            )
        device = known
    if named is not None and named.device.name != device.name:
        raise ConfigError(
            f"{named.name} is named, but this machine has {present.name}",
            "leave gpus= and hardware= out, or plan without --measure",
        )
    return machine_of(device, 1 if named is None else named.count)


def measure(
    config: Config, present: Present, lengths: str | None, say: Callable[[str], None], budget_s: float = BUDGET_S
) -> Speed:
    """Return the speed of this machine for each phase.

    Args:
        config: what is to be trained.
        present: the device found.
        lengths: an assumption about lengths, or None.
        say: is told what is measured.
        budget_s: seconds for all phases together.

    Raises:
        DataError: a manifest is there and cannot be read.
        TrainingError: the process failed.
    """
    tasks: dict[str, dict[str, Any]] = {}
    task_of_phase: dict[str, str] = {}
    for plan, _ in all_phases(config):
        blocks = (plan.actual_end_tokens - plan.start_tokens) // plan.block_tokens
        data = data_of_phase(config, plan.phase, blocks, lengths)
        tokens = plan.block_tokens
        if present.device_type == "cpu":  # rates are those of longer blocks, in a fraction of the time
            tokens = min(tokens, max(plan.phase.max_seq_len, _CPU_TOKENS))
        task = {
            "blocks": draw_blocks(data.segments, tokens, _SAMPLE_BLOCKS),
            "mask_rate": round(mean_mask_rate(plan.phase), 6),
        }
        task_of_phase[plan.name] = key = json.dumps(task)
        tasks.setdefault(key, task)
    say(f"measuring {len(tasks)} kinds of step on {present.name}, about {budget_s:.0f} s")
    found = run_probe({"phases": list(tasks.values()), "budget_s": budget_s, **_setting(config)})
    figures = dict(zip(tasks, found["phases"], strict=True))
    depths = sorted({depth for each in found["phases"] for depth in each["depths"]})
    steps = sum(each["steps"] for each in found["phases"])
    whole = depths == [config.model.num_layers]
    rest = "" if whole else f" of {config.model.num_layers}, the rest by FLOPs"
    busy = ""
    if present.device_type == "cpu" and found["processor_share"] < _BUSY_BELOW:
        busy = f"; it had {found['processor_share']:.0%} of its threads' time: others use this machine"
    return Speed(
        {name: figures[key]["flops_per_s"] for name, key in task_of_phase.items()},
        found["optimizer_s_per_parameter"],
        f"measured on {present.name} ({found['threads']} CPU threads), {steps} steps with "
        f"{' and '.join(map(str, depths))} layers{rest}; no other rank, no loader{busy}",
    )


def draw_blocks(segments: Segments, block_tokens: int, count: int) -> list[list[int]]:
    """Return segment lengths of full blocks, drawn from a distribution; a block's last segment fills it up."""
    generator, blocks = random.Random(0), []
    for _ in range(count):
        free, lengths = block_tokens, []
        while free > 0:
            length = min(free, *generator.choices(segments.lengths, segments.weights))
            lengths.append(length)
            free -= length
        blocks.append(lengths)
    return blocks


def run_probe(task: dict[str, Any]) -> dict[str, Any]:
    """Have a process do a task of :mod:`padless.bench.probe` and return its figures.

    Raises:
        TrainingError: it failed; says its last line.
    """
    remedy = "where memory did not suffice, take a smaller hardware.microbatch_blocks"
    return run_module("padless.bench.probe", task, os.environ, "the probe", remedy)


def _setting(config: Config) -> dict[str, Any]:
    first = config.phases[config.phase_order[0]]
    hardware = config.hardware
    return {
        "model": dataclasses.asdict(config.model),
        "optimizer": dataclasses.asdict(config.optimizer),
        "rope": dataclasses.asdict(first.rope),
        "microbatch_blocks": hardware.microbatch_blocks,
        "precision": hardware.precision,
        "device": hardware.device,
        "backend": hardware.attention_backend,
        "compile": hardware.compile,
        "num_threads": hardware.num_threads,
    }
