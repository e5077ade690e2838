"""What a bench of speed leaves behind: a Markdown table, a JSON file and a picture, with the facts to judge them by.

A figure is several repeats, never one; a ratio is taken side by side within one run, repeat by repeat, so that what
else the machine does touches both sides.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.bench.machine import describe_machine
from padless.data.durable import write_durably


@dataclass(frozen=True)
class Figure:
    """One measured quantity: ``who`` did it, on which ``case``, in which ``unit``, once a repeat."""

    case: str
    who: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Ratio:
    """How one figure compares with another of the same run, once a repeat; ``target`` is what the project asks for.

    Args:
        name: what is compared, as a reader would say it.
        values: one a repeat.
        target: the promised bound, or None where there is none.
        is_lower_better: the target is an upper bound.
    """

    name: str
    values: tuple[float, ...]
    target: float | None = None
    is_lower_better: bool = False

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the median keeps to the target; None without one."""
        if self.target is None:
            return None
        return self.median <= self.target if self.is_lower_better else self.median >= self.target


@dataclass
class BenchResult:
    """All of one bench's run."""

    bench: str
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # settings of the run: shapes, batches, seeds
    notes: list[str] = field(default_factory=list)  # what a reader has to know

    def as_plain(self) -> dict[str, Any]:
        """Return what goes into the JSON file."""
        return {
            "bench": self.bench,
            "machine": describe_machine(),
            "facts": self.facts,
            "figures": [{**asdict(each), **_spread(each.values)} for each in self.figures],
            "ratios": [{**asdict(each), **_spread(each.values), "holds": each.holds} for each in self.ratios],
            "notes": self.notes,
        }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def as_markdown(result: BenchResult) -> str:
    """Return tables of figures and ratios, least, middle and largest value each."""
    lines = [f"### {result.bench}", ""]
    if result.figures:
        lines += ["| case | who | min | median | max | unit |", "| --- | --- | ---: | ---: | ---: | --- |"]
        lines += [
            f"| {each.case} | {each.who} | {_spread_text(each.values)} | {each.unit} |" for each in result.figures
        ]
        lines.append("")
    if result.ratios:
        lines += ["| ratio | min | median | max | asked | holds |", "| --- | ---: | ---: | ---: | ---: | --- |"]
        lines += [f"| {each.name} | {_spread_text(each.values)} | {_asked(each)} |" for each in result.ratios]
        lines.append("")
    facts = ", ".join(f"{key} {value}" for key, value in {**describe_machine(), **result.facts}.items())
    return "\n".join([*lines, *result.notes, "", f"Measured on: {facts}.", ""])


def _spread_text(values: Sequence[float]) -> str:
    return " | ".join(number_text(value) for value in _spread(values).values())


def number_text(value: float) -> str:
    """Return a figure with three digits that count, and shares close to 1 with those that tell them from it."""
    if 0.99 <= value < 1:
        return f"{value:.5g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _asked(ratio: Ratio) -> str:
    if ratio.target is None:
        return " | "
    sign = "<=" if ratio.is_lower_better else ">="
    return f"{sign} {ratio.target:g} | {'yes' if ratio.holds else '**no**'}"


def publish(result: BenchResult, folder: Path, as_json: bool, picture: Callable[[Path], None] | None = None) -> None:
    """Write ``<bench>.md``, ``<bench>.json`` and ``<bench>.png`` into ``folder`` and print the table.

    Args:
        result: what was measured.
        folder: made if missing.
        as_json: print the JSON object on standard output, and the table on standard error.
        picture: draws another picture than bars.
    """
    from padless.bench.picture import draw

    folder.mkdir(parents=True, exist_ok=True)
    plain, text = result.as_plain(), as_markdown(result)
    write_durably(folder / f"{result.bench}.json", (json.dumps(plain, indent=1) + "\n").encode())
    write_durably(folder / f"{result.bench}.md", text.encode())
    png = folder / f"{result.bench}.png"
    draw(result, png) if picture is None else picture(png)
    console = Console(stderr=as_json)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{folder / result.bench}.md, .json, .png", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(plain) + "\n")
