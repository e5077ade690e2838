"""``padless design --measure``: shapes of a search timed on this machine, beside what is predicted for it.

Each shape runs in a process of its own, pinned to one core. On a CPU the prediction takes the core's own rates, which
are measured first; on a GPU that the table has, its data sheet's. What is compared is the order of the shapes: the rank
correlation of predicted and measured times, by workload and over all.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.bench.apart import measure_apart
from padless.config.schema import ModelConfig
from padless.design.agreement import rank_correlation
from padless.design.device import Device, cpu_core, device_of
from padless.design.predict import predict
from padless.design.search import Found, Workload, geometric_mean
from padless.design.shapes import shape_name
from padless.plan.devices import gpu_of_driver

_JOBS = "padless.design.timing"


@dataclass(frozen=True)
class Timing:
    """One shape on this machine."""

    model: ModelConfig
    predicted_s: tuple[float, ...] | None  # by workload; None where the device is not in the table
    measured_s: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What was timed.

    Attributes:
        device: what ran.
        rates: of the machine, in 10^9 a second, where they were measured.
        workloads: what was timed.
        timings: a row a shape.
        correlation: by workload and, as ``all``, of geometric means; None where there is nothing to compare.
    """

    device: str
    rates: dict[str, float]
    workloads: tuple[Workload, ...]
    timings: list[Timing]
    correlation: dict[str, float | None]


@dataclass(frozen=True)
class Machine:
    """The machine a search runs on: its torch device type, its name, and what to predict with (None: unknown)."""

    device_type: str
    name: str
    device: Device | None
    rates: dict[str, float]


def look_at_machine(folder: Path) -> Machine:
    """Return the machine: its GPU where torch sees one, else one core, with its rates measured.

    Args:
        folder: gets the log of the process that measures.

    Raises:
        TrainingError: that process fails.
    """
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        gpu = gpu_of_driver(name)
        return Machine("cuda", name, None if gpu is None else device_of(gpu), {})
    rates = measure_apart(f"{_JOBS}:cpu_rates", folder / "rates.log")
    return Machine("cpu", "one CPU core", cpu_core(**rates), rates)


def workloads_here(machine: Machine, workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    """Return what is timed: all on a GPU; on a CPU, which computes segments one by one, single ones."""
    if machine.device_type == "cuda":
        return tuple(workloads)
    return tuple(each for each in workloads if each.num_segments == 1)


def shapes_to_time(found: Found, count: int) -> list[ModelConfig]:
    """Return ``count`` shapes of a search, evenly from shallow to deep over all its shapes, published ones first."""
    published = [each.candidate.model for each in found.standings]
    others = [each.model for each in found.candidates if each.published is None]
    others.sort(key=lambda model: (model.num_layers, model.hidden_size))
    wanted = min(max(0, count - len(published)), len(others))
    places = [round(number * (len(others) - 1) / max(1, wanted - 1)) for number in range(wanted)]
    return [*published, *(others[place] for place in dict.fromkeys(places))]


def measure(
    models: Sequence[ModelConfig], workloads: Sequence[Workload], repeats: int, say: Callable[[str], None]
) -> Measured:
    """Time shapes on this machine.

    Args:
        models: shapes.
        workloads: of the search.
        repeats: timings of each workload, of which the least counts.
        say: told each figure.

    Raises:
        TrainingError: a process fails; its log is kept and named.
    """
    folder = Path(tempfile.mkdtemp(prefix="padless-design-"))
    machine = look_at_machine(folder)
    here = workloads_here(machine, workloads)
    if machine.rates:
        say("this core: " + ", ".join(f"{key} {value:.1f}" for key, value in machine.rates.items()))
    timings = []
    for model in models:
        timings.append(_time(model, machine, here, repeats, folder))
        texts = [f"{each.name} {took_s:.3g} s" for each, took_s in zip(here, timings[-1].measured_s, strict=True)]
        say(f"{shape_name(model)}: {', '.join(texts)}")
    shutil.rmtree(folder)
    return Measured(machine.name, machine.rates, here, timings, _correlations(timings, here))


def _time(model: ModelConfig, machine: Machine, here: Sequence[Workload], repeats: int, folder: Path) -> Timing:
    settings: dict[str, Any] = {
        "model": dataclasses.asdict(model),
        "device_type": machine.device_type,
        "workloads": [[each.num_segments, each.segment_tokens] for each in here],
        "repeats": repeats,
    }
    took = measure_apart(f"{_JOBS}:time_shape", folder / f"{shape_name(model)}.log", **settings)
    device = machine.device
    predicted_s = None
    if device is not None:
        predicted_s = tuple(predict(model, device, each.num_segments, each.segment_tokens).total_s for each in here)
    return Timing(model, predicted_s, tuple(took["seconds"]))


def _correlations(timings: Sequence[Timing], here: Sequence[Workload]) -> dict[str, float | None]:
    names = [*(each.name for each in here), "all"]
    pairs = [(each.predicted_s, each.measured_s) for each in timings if each.predicted_s is not None]
    if not pairs:
        return dict.fromkeys(names)
    rows = [([*a, geometric_mean(a)], [*b, geometric_mean(b)]) for a, b in pairs]
    return {
        name: rank_correlation([a[place] for a, _ in rows], [b[place] for _, b in rows])
        for place, name in enumerate(names)
    }
