"""``padless bench gpu``: the train step, attention and the way of batches on the GPU of this machine.

The step is measured with our Triton kernels, without them, and with compiled layers on top, each side in a process of
its own, the sides by turns (:mod:`padless.bench.gpu_jobs` has what the processes do).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.bench.command import at_least_one, one_of, settings_of, whole_number
from padless.bench.lengths import CASES
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.shapes import shape_of
from padless.errors import ConfigError
from padless.kernels.select import VARIABLE
from padless.processes import run_module
from padless.saying import say_on

DEFAULTS = {
    "shape": "base",
    "cases": "web,long",
    "steps": "20",
    "warmup": "5",
    "tokens": "98304",
    "repeats": "3",
    "seed": "0",
    "folder": "runs/bench/gpu",
}
KERNELS, PLAIN, COMPILED = "kernels", "plain", "kernels, compiled"
_SIDES: dict[str, tuple[dict[str, str], bool]] = {  # environment, and whether layers are compiled
    KERNELS: ({}, False),
    PLAIN: ({VARIABLE: "plain"}, False),
    COMPILED: ({}, True),
}
_DATA_WAIT_BOUND = 0.05  # making batches may take this share of a step's time, on one core

Run = Callable[[Mapping[str, Any], Mapping[str, str]], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What one call measures, and where to."""

    shape: str
    cases: tuple[str, ...]
    steps: int
    warmup: int
    tokens: int  # of a microbatch
    repeats: int
    seed: int
    folder: Path


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong, or there is no GPU.
        TrainingError: a process failed.
    """
    plan = parse(arguments)
    require_gpu()
    publish(measure(plan, "cuda", run_in_process, say_on(Console(stderr=as_json))), plan.folder, as_json)


def parse(arguments: list[str]) -> Plan:
    """Return what ``key=value`` arguments ask for.

    Raises:
        ConfigError: one is unknown or out of range.
    """
    told = settings_of(arguments, DEFAULTS)
    shape_of(told["shape"])
    return Plan(
        shape=told["shape"],
        cases=tuple(one_of("cases", each, tuple(CASES)) for each in told["cases"].split(",")),
        steps=at_least_one("steps", told["steps"]),
        warmup=at_least_one("warmup", told["warmup"]),
        tokens=at_least_one("tokens", told["tokens"]),
        repeats=at_least_one("repeats", told["repeats"]),
        seed=whole_number("seed", told["seed"]),
        folder=Path(told["folder"]),
    )


def require_gpu() -> None:
    """Hold that there is a CUDA GPU.

    Raises:
        ConfigError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"padless bench gpu needs a CUDA GPU, and torch {torch.__version__} sees none",
            "run it on a machine with one (padless doctor says what keeps torch from it), or padless bench step here",
        )


def measure(plan: Plan, device_type: str, run: Run, say: Callable[[str], None]) -> BenchResult:
    """Return all figures.

    Args:
        plan: what to measure.
        device_type: where.
        run: does a job with changes of the environment and returns its figures.
        say: gets a line about progress.
    """
    result = BenchResult("gpu", facts={"shape": plan.shape, "tokens a microbatch": plan.tokens, "steps": plan.steps})
    for case in plan.cases:
        _measure_steps(result, plan, case, device_type, run, say)
    say("attention alone")
    job = {"job": "attention", "device_type": device_type, "shape": plan.shape}
    rates = run({**job, "tokens": plan.tokens, "repeats": plan.repeats}, {})["tokens_per_s"]
    for name, values in rates.items():
        backend, place = name.split(" ", 1)
        result.figures.append(Figure(f"attention {place}", backend, "real tokens/s, attention alone", tuple(values)))
    return result


def _measure_steps(
    result: BenchResult, plan: Plan, case: str, device_type: str, run: Run, say: Callable[[str], None]
) -> None:
    common = {"device_type": device_type, "shape": plan.shape, "case": case, "tokens": plan.tokens, "seed": plan.seed}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in _SIDES}
    for repeat in range(plan.repeats):
        for side, (environment, is_compiled) in _SIDES.items():
            say(f"{CASES[case].says}: {side}, {repeat + 1}/{plan.repeats}")
            job = {**common, "job": "step", "steps": plan.steps, "warmup": plan.warmup, "is_compiled": is_compiled}
            found[side].append(run(job, environment))
    feed = run({**common, "job": "feed", "repeats": plan.repeats}, {})["tokens_per_s"]
    place = f"{plan.shape} {case}"
    for side, runs in found.items():
        result.figures += _figures(place, side, runs)
        result.notes += dict.fromkeys(f"{side}: {each}" for one in runs for each in one["lines"])
    result.figures.append(Figure(place, "collate, pin, copy", "real tokens/s", tuple(feed)))
    rates = {side: [each["tokens_per_s"] for each in runs] for side, runs in found.items()}
    result.ratios += [
        Ratio(f"{place}: kernels over plain", _over(rates[KERNELS], rates[PLAIN])),
        Ratio(f"{place}: compiled over kernels", _over(rates[COMPILED], rates[KERNELS])),
        Ratio(f"{place}: host's time for a batch in a step's", _over(rates[KERNELS], feed), _DATA_WAIT_BOUND, True),
    ]
    result.notes = list(dict.fromkeys(result.notes))


def _figures(place: str, side: str, runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return what is known of one side; share of the peak and memory only where the device tells them."""
    units = {
        "tokens_per_s": "real tokens/s",
        "mfu": "MFU",
        "peak_gb": "GB, peak device memory",
        "host_share": "share of the time until the last step was told to the device",
    }
    values = {key: tuple(each[key] for each in runs if each[key] is not None) for key in units}
    return [Figure(place, side, unit, values[key]) for key, unit in units.items() if values[key]]


def _over(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(above, below, strict=True))


def run_in_process(job: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Do a job (:mod:`padless.bench.gpu_jobs`) in a process of its own and return its figures.

    Raises:
        TrainingError: it failed.
    """
    inherited = {key: value for key, value in os.environ.items() if key != VARIABLE}
    what, remedy = f"the process of {job['job']}", "where memory did not suffice, take fewer tokens="
    return run_module("padless.bench.gpu_jobs", job, {**inherited, **environment}, what, remedy)
