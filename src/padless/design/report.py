"""A search as a table and as plain data."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from padless.design.measure import Measured
from padless.design.predict import sm_use
from padless.design.search import Candidate, Found, Standing, Workload
from padless.design.shapes import divides_into_tiles, shape_name, weights_of
from padless.plan.devices import Gpu
from padless.units import approximate_tokens

NEAR = 0.05
_NAMED = 4  # shapes that are left out; JSON has them all


def front_table(
    found: Found, basket: Sequence[Gpu], workloads: Sequence[Workload], top: int, has_memory: bool
) -> Table:
    """Return a front, thinned evenly to ``top`` rows, with the published shapes of the budget among it.

    A shape is layers x hidden x GeGLU width; times are multiples of the fastest shape's, memory is the largest batch's.
    """
    lengths = list(dict.fromkeys(each.segment_tokens for each in workloads))
    front = found.memory_front if has_memory else found.front
    aims = "predicted time, depth and memory" if has_memory else "predicted time and depth"
    title = f"{approximate_tokens(found.parameters)} parameters: front of {aims}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    headings = ["shape", "parameters", "time", *(f"at {length}" for length in lengths), "GB", "SM use"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    least = {length: min(each.mean_of(length) for each in found.candidates) for length in lengths}
    fastest_s = min(each.mean_s for each in found.candidates)
    for each in rows_to_show(found, front, top):
        on_front = any(one is each for one in front)
        marks = [each.published or "", "" if on_front else "off the front"]
        table.add_row(
            shape_name(each.model),
            approximate_tokens(each.parameters),
            f"{each.mean_s / fastest_s:.2f}",
            *(f"{each.mean_of(length) / least[length]:.2f}" for length in lengths),
            f"{each.most_bytes / 1e9:.2f}",
            f"{mean_sm_use(each, basket):.0%}",
            ", ".join(filter(None, marks)),
            style="bold" if each.published else None,
        )
    return table


def rows_to_show(found: Found, front: Sequence[Candidate], top: int) -> list[Candidate]:
    """Return at most ``top`` shapes of a front, evenly from shallow to deep, and all published, by depth."""
    wanted = min(top, len(front))
    places = {round(number * (len(front) - 1) / max(1, wanted - 1)) for number in range(wanted)}
    published = [each.candidate for each in found.standings]
    shown = [each for place, each in enumerate(front) if place in places and each.published is None]
    return sorted([*shown, *published], key=lambda each: (each.model.num_layers, each.mean_s))


def mean_sm_use(candidate: Candidate, basket: Sequence[Gpu]) -> float:
    """Return the published heuristic (:func:`padless.design.predict.sm_use`), mean over the basket."""
    return sum(sm_use(candidate.model, gpu.num_sms) for gpu in basket) / len(basket)


def standing_lines(found: Found) -> list[str]:
    """Return what is to be said of each published shape, and how much that says."""
    lines = []
    for each in found.standings:
        name = f"{each.candidate.published} {shape_name(each.candidate.model)}"
        lines += [
            f"{name}: {_behind(each.behind_front, each.front, each)} among shapes of at least its depth",
            f"  of its own width too: {_behind(each.behind_width, each.width, each)}",
            f"  of any depth: {_behind(each.behind_fastest, each.fastest, each)}",
        ]
    if found.too_large:
        names = list(map(shape_name, found.too_large))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"left out, too large for a GPU of the basket: {', '.join(names[:_NAMED])}{more}")
    near, total = near_front(found), len(found.candidates)
    lines.append(f"on the front of time and depth: {len(found.front)} shapes; with memory: {len(found.memory_front)}")
    lines.append(f"within {NEAR:.0%} of the front at their depth: {near} of the {total} shapes ({near / total:.0%})")
    return lines


def near_front(found: Found) -> int:
    """Return how many shapes are at most 5 % slower than the front at their depth: what a shape taken blindly meets."""
    return sum(_least_s(found, each.model.num_layers) * (1 + NEAR) >= each.mean_s for each in found.candidates)


def _least_s(found: Found, num_layers: int) -> float:
    return min(each.mean_s for each in found.front if each.model.num_layers >= num_layers)


def _behind(share: float, other: Candidate, standing: Standing) -> str:
    if other is standing.candidate:
        return "the fastest"
    return f"{share:.1%} slower than {shape_name(other.model)} ({approximate_tokens(other.parameters)})"


def measured_table(measured: Measured) -> Table:
    """Return predicted and measured seconds of each shape."""
    table = Table(title=f"timed on {measured.device}")
    table.add_column("shape", justify="right", no_wrap=True)
    for each in measured.workloads:
        for heading in ("predicted", "measured"):
            table.add_column(f"{each.name}\n{heading} s", justify="right")
    for timing in measured.timings:
        predicted = timing.predicted_s or (None,) * len(timing.measured_s)
        cells = [
            text
            for a, b in zip(predicted, timing.measured_s, strict=True)
            for text in ("unknown" if a is None else f"{a:.3g}", f"{b:.3g}")
        ]
        table.add_row(shape_name(timing.model), *cells)
    return table


def correlation_line(measured: Measured) -> str:
    """Return how well the prediction ranks what was timed."""
    texts = [f"{name} {'unknown' if rho is None else f'{rho:.2f}'}" for name, rho in measured.correlation.items()]
    return f"rank correlation (Spearman) of {len(measured.timings)} shapes: {', '.join(texts)}"


def as_plain(found: Found, basket: Sequence[Gpu], measured: Measured | None) -> dict[str, Any]:
    """Return all of it as JSON can hold it."""
    return {
        "parameters": found.parameters,
        "candidates": len(found.candidates),
        "too_large": [shape_name(model) for model in found.too_large],
        "within_5_percent_of_front": near_front(found),
        "front": [_plain_candidate(each, basket) for each in found.front],
        "memory_front": [_plain_candidate(each, basket) for each in found.memory_front],
        "published": [_plain_standing(each, basket) for each in found.standings],
        "measured": None if measured is None else _plain_measured(measured),
    }


def _plain_candidate(candidate: Candidate, basket: Sequence[Gpu]) -> dict[str, Any]:
    model = candidate.model
    whole = [name for name, weight in weights_of(model).items() if divides_into_tiles(*weight)]
    seconds: dict[str, dict[str, float]] = {}
    for (gpu, workload), each in candidate.seconds.items():
        seconds.setdefault(gpu, {})[workload] = each.total_s
    return {
        "shape": shape_name(model),
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "intermediate_size": model.intermediate_size,
        "parameters": candidate.parameters,
        "published": candidate.published,
        "mean_s": candidate.mean_s,
        "seconds": seconds,
        "memory_bytes": candidate.memory_bytes,
        "sm_use": mean_sm_use(candidate, basket),
        "whole_tiles": whole,
    }


def _plain_standing(standing: Standing, basket: Sequence[Gpu]) -> dict[str, Any]:
    return {
        **_plain_candidate(standing.candidate, basket),
        "behind_front": standing.behind_front,
        "front_shape": shape_name(standing.front.model),
        "behind_width": standing.behind_width,
        "width_shape": shape_name(standing.width.model),
        "behind_fastest": standing.behind_fastest,
        "fastest_shape": shape_name(standing.fastest.model),
    }


def _plain_measured(measured: Measured) -> dict[str, Any]:
    return {
        "device": measured.device,
        "rates": measured.rates,
        "workloads": [each.name for each in measured.workloads],
        "timings": [
            {"shape": shape_name(each.model), "predicted_s": each.predicted_s, "measured_s": each.measured_s}
            for each in measured.timings
        ],
        "rank_correlation": measured.correlation,
    }
