"""What came of the branches: their last validation losses in one table, and a picture of the decays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from padless.config.branches import FOLDER
from padless.config.schema import Config
from padless.run_files import METRICS
from padless.schedule.phases import plan_phases
from padless.train.callbacks.metrics import read_metrics
from padless.train.marks import mark_best
from padless.units import approximate_tokens

_COLOURS = ("#c0392b", "#2d7a46", "#7a3b8f", "#d68a1e", "#1f8a8a", "#8c564b")
_TRUNK_COLOUR = "#1f4e8c"
_SMOOTHED_STEPS = 25


@dataclass(frozen=True)
class BranchResult:
    """Where one branch, or the trunk before it, has come to by its own metrics. Losses are nats a masked token."""

    name: str
    tokens: int  # clock of the last validation; 0 where there was none
    loss: float | None  # of that validation
    loss_by_stream: dict[str, float]  # empty where validation has but one stream


def branch_results(config: Config, trunk_folder: Path) -> list[BranchResult]:
    """Return the trunk's last validation, then that of each branch, in the recipe's order.

    Args:
        config: the trunk's.
        trunk_folder: its run folder.
    """
    folders = {"(before)": trunk_folder, **{name: trunk_folder / FOLDER / name for name in config.branches}}
    return [_result(name, read_metrics(folder / METRICS)) for name, folder in folders.items()]


def _result(name: str, lines: Sequence[Mapping[str, Any]]) -> BranchResult:
    evals = [line for line in lines if "eval_loss" in line]
    if not evals:
        return BranchResult(name, 0, None, {})
    last, prefix = evals[-1], "eval_loss_"
    streams = {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}
    return BranchResult(name, last["tokens"], last["eval_loss"], streams)


def print_branches(results: Sequence[BranchResult], console: Console) -> None:
    """Print one line a branch, the best loss of each column marked with a star."""
    streams = list(dict.fromkeys(stream for result in results for stream in result.loss_by_stream))
    table = Table(title="branches: validation loss", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("branch", overflow="fold")
    for heading in ("tokens", "loss", *streams):
        table.add_column(heading, justify="right", no_wrap=True)
    columns = [[result.loss for result in results]]
    columns += [[result.loss_by_stream.get(stream) for result in results] for stream in streams]
    cells = [mark_best(column, ".4f") for column in columns]
    for number, result in enumerate(results):
        tokens = approximate_tokens(result.tokens) if result.tokens else "none yet"
        table.add_row(result.name, tokens, *(column[number] for column in cells))
    console.print(table, highlight=False, markup=False)


def plot_branches(config: Config, trunk_folder: Path, out: Path) -> None:
    """Draw the decays: losses above, learning rates below, from the trunk's last phase on; nothing without steps.

    Args:
        config: the trunk's.
        trunk_folder: its run folder.
        out: the PNG.
    """
    last = plan_phases(config)[-1]
    trunk = [line for line in read_metrics(trunk_folder / METRICS) if line["tokens"] >= last.start_tokens]
    runs = {name: read_metrics(trunk_folder / FOLDER / name / METRICS) for name in config.branches}
    if not any("loss" in line for lines in runs.values() for line in lines):
        return
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw(upper, lower, last.name, trunk, _TRUNK_COLOUR)
    parting = [line for line in trunk if "eval_loss" in line][-1:]  # where the branches' validations come from
    for number, (name, lines) in enumerate(runs.items()):
        if lines:
            _draw(upper, lower, name, [*parting, *lines], _COLOURS[number % len(_COLOURS)])
    upper.set_ylabel("MLM loss (nats)")
    upper.set_title("points: validation; thin: training, means of steps, each at its mask rate", fontsize=9, loc="left")
    upper.legend(loc="best", fontsize=8)
    lower.set_ylabel("learning rate")
    lower.set_xlabel("clock (tokens)")
    lower.xaxis.set_major_formatter(lambda value, _: approximate_tokens(value))
    for axis in (upper, lower):
        axis.axvline(last.actual_end_tokens, color="#555555", ls=(0, (4, 3)), lw=1)
        axis.grid(alpha=0.3)
        axis.margins(x=0.01)
    figure.savefig(out, dpi=130)


def _draw(upper: Axes, lower: Axes, name: str, lines: Sequence[Mapping[str, Any]], colour: str) -> None:
    steps = [line for line in lines if line.get("loss") is not None]
    evals = [line for line in lines if "eval_loss" in line]
    if steps:
        tokens = np.array([line["tokens"] for line in steps])
        width = max(1, min(_SMOOTHED_STEPS, len(steps) // 8))
        smooth = np.convolve([line["loss"] for line in steps], np.ones(width) / width, mode="valid")
        middle = width // 2
        label = None if evals else name
        upper.plot(tokens[middle : middle + len(smooth)], smooth, color=colour, lw=0.8, alpha=0.6, label=label)
        lower.plot(tokens, [line["lr"] for line in steps], color=colour, lw=1.2)
    if evals:
        clocks, losses = [line["tokens"] for line in evals], [line["eval_loss"] for line in evals]
        upper.plot(clocks, losses, "o-", color=colour, ms=4, lw=1.6, label=name)
