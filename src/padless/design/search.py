"""The search: every shape of the grid timed on every GPU of the basket, and the Pareto front of time and depth.

At equal parameters more layers of less width make the better model (Tay et al. 2022; Liu et al. 2024, MobileLLM) and
the slower one; the ModernBERT authors wanted theirs as deep and narrow as possible without a significant slowdown. So a
shape is on the front if no shape that is at least as deep is faster. Its time is the geometric mean, over GPUs and
workloads, of predicted seconds: all count alike, a fast GPU no less than a slow one. (The authors put more weight on
inference GPUs and gave no figure; a basket without A100 and H100 is theirs at the extreme.)

The front with memory has a third aim: a shape is on it if none at least as deep and as fast needs as little memory for
the largest input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from padless.config.schema import ModelConfig
from padless.design.device import Device, device_of
from padless.design.predict import Prediction, inference_bytes, predict
from padless.design.shapes import (
    Grid,
    largest_that_fits,
    no_shape_of,
    published_shapes,
    shape_name,
    shapes_of_budget,
)
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.plan.devices import Gpu
from padless.units import approximate_tokens


@dataclass(frozen=True)
class Workload:
    """Segments of one length, packed."""

    num_segments: int
    segment_tokens: int

    @property
    def name(self) -> str:
        """Return e.g. ``128 x 512``."""
        return f"{self.num_segments} x {self.segment_tokens}"


@dataclass(frozen=True)
class Candidate:
    """One shape and what is predicted of it."""

    model: ModelConfig
    parameters: int
    published: str | None  # name, where it is a published shape
    seconds: dict[tuple[str, str], Prediction]  # by GPU and workload
    mean_s: float  # geometric, over all of them
    memory_bytes: dict[str, int]  # by workload, in half precision

    @property
    def most_bytes(self) -> int:
        """Return the memory of the largest workload."""
        return max(self.memory_bytes.values())

    def mean_of(self, segment_tokens: int) -> float:
        """Return the geometric mean over the workloads of one length, in seconds."""
        return geometric_mean(
            [each.total_s for (_, workload), each in self.seconds.items() if workload.endswith(f" x {segment_tokens}")]
        )


@dataclass(frozen=True)
class Standing:
    """Where a published shape stands: how much slower it is than the fastest others, and which these are."""

    candidate: Candidate
    behind_front: float  # 0.05: 5 % slower than the fastest shape of at least its depth
    front: Candidate
    behind_width: float  # the same among shapes of its own hidden size
    width: Candidate
    behind_fastest: float  # among all, of any depth
    fastest: Candidate


@dataclass(frozen=True)
class Found:
    """What one budget gave."""

    parameters: int
    candidates: list[Candidate]
    front: list[Candidate]  # of time and depth, by depth, ascending
    memory_front: list[Candidate]  # of time, depth and memory, by depth, ascending
    standings: list[Standing]
    too_large: list[ModelConfig]  # left out: a GPU of the basket cannot hold them with the largest workload


def workloads_of(context: int, short: int, batch_tokens: int) -> list[Workload]:
    """Return one segment alone and a batch of them, short and long."""
    lengths = dict.fromkeys([min(short, context), context])
    pairs = [(count, length) for length in lengths for count in (1, max(1, batch_tokens // length))]
    return [Workload(*pair) for pair in dict.fromkeys(pairs)]


def search(
    grid: Grid, parameters: int, tolerance: float, basket: Sequence[Gpu], workloads: Sequence[Workload]
) -> Found:
    """Return candidates, front, and where the published shapes of about that size stand.

    Args:
        grid: shapes to choose from; published ones of the budget are looked at in any case.
        parameters: the budget.
        tolerance: as a share of it.
        basket: GPUs; a shape has to fit each.
        workloads: what is timed.

    Raises:
        ConfigError: no shape has so many parameters, or none fits a GPU.
    """
    published = {
        model: name
        for name, model in published_shapes().items()
        if model.vocab_size == grid.vocab_size
        and abs(count_parameters(model).total - parameters) <= tolerance * parameters
    }
    models = dict.fromkeys([*shapes_of_budget(grid, parameters, tolerance), *published])
    devices = [device_of(gpu) for gpu in basket]
    if not models:
        room = min(device.memory_bytes for device in devices)
        raise no_shape_of(grid, parameters, tolerance, lambda model: _most(model, workloads) <= room)
    fitting = _those_that_fit(list(models), grid, devices, workloads)
    candidates = [_candidate(model, published.get(model), devices, workloads) for model in fitting]
    standings = [_standing(each, candidates) for each in candidates if each.published]
    fronts = pareto_front(candidates), memory_front(candidates)
    return Found(parameters, candidates, *fronts, standings, [model for model in models if model not in fitting])


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the shapes that none of at least their depth outruns, by depth, ascending."""
    front: list[Candidate] = []
    for each in sorted(candidates, key=lambda one: (-one.model.num_layers, one.mean_s)):
        if not front or each.mean_s < front[-1].mean_s:
            front.append(each)
    return front[::-1]


def memory_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the shapes that none matches in depth, time and memory and beats in one of them, by depth, ascending."""
    aims = [(-each.model.num_layers, each.mean_s, each.most_bytes) for each in candidates]

    def is_beaten(own: tuple[float, ...]) -> bool:
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in aims)

    front = [each for each, own in zip(candidates, aims, strict=True) if not is_beaten(own)]
    return sorted(front, key=lambda each: (each.model.num_layers, each.mean_s))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _those_that_fit(
    models: list[ModelConfig], grid: Grid, devices: Sequence[Device], workloads: Sequence[Workload]
) -> list[ModelConfig]:
    smallest = min(devices, key=lambda device: device.memory_bytes)
    fitting = [model for model in models if _most(model, workloads) <= smallest.memory_bytes]
    if fitting:
        return fitting
    least = min(models, key=lambda model: _most(model, workloads))
    largest = largest_that_fits(grid, lambda model: _most(model, workloads) <= smallest.memory_bytes)
    works = (
        "" if largest is None else f"parameters={count_parameters(largest).total:_} ({shape_name(largest)}) fits; or "
    )
    raise ConfigError(
        f"no shape of {approximate_tokens(count_parameters(least).total)} parameters fits {smallest.name}: "
        f"{shape_name(least)} needs {_most(least, workloads) / 1e9:.1f} of its {smallest.memory_bytes / 1e9:.0f} GB",
        f"{works}leave {smallest.name} out of basket=, or give fewer batch_tokens=",
    )


def _memory(model: ModelConfig, workloads: Sequence[Workload]) -> dict[str, int]:
    return {each.name: inference_bytes(model, each.num_segments * each.segment_tokens, 2) for each in workloads}


def _most(model: ModelConfig, workloads: Sequence[Workload]) -> int:
    return max(_memory(model, workloads).values())


def _candidate(
    model: ModelConfig, published: str | None, devices: Sequence[Device], workloads: Sequence[Workload]
) -> Candidate:
    seconds = {
        (device.name, each.name): predict(model, device, each.num_segments, each.segment_tokens)
        for device in devices
        for each in workloads
    }
    mean_s = geometric_mean([each.total_s for each in seconds.values()])
    return Candidate(model, count_parameters(model).total, published, seconds, mean_s, _memory(model, workloads))


def _standing(candidate: Candidate, candidates: Sequence[Candidate]) -> Standing:
    at_least_as_deep = [each for each in candidates if each.model.num_layers >= candidate.model.num_layers]
    of_its_width = [each for each in at_least_as_deep if each.model.hidden_size == candidate.model.hidden_size]
    front, width, fastest = (_fastest(each) for each in (at_least_as_deep, of_its_width, candidates))
    return Standing(
        candidate,
        candidate.mean_s / front.mean_s - 1,
        front,
        candidate.mean_s / width.mean_s - 1,
        width,
        candidate.mean_s / fastest.mean_s - 1,
        fastest,
    )


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda each: each.mean_s)
