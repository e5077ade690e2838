"""What a continued run gained on its domain and lost elsewhere: validation by stream, the source against the end.

Every evaluation of a run that reads several validation streams has a loss of each (``eval_loss_<stream>`` in
``metrics.jsonl``). The first one is at clock 0, before any step: it is the source itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from padless.config.schema import StartConfig
from padless.units import approximate_tokens

COLOURS = ("#c0392b", "#1f4e8c", "#2d7a46", "#7a3b8f", "#b8860b")
_PREFIX = "eval_loss_"


@dataclass(frozen=True)
class BeforeAfter:
    """Validation loss of one stream, nats a masked token."""

    stream: str
    before: float  # of the source, at clock 0
    after: float  # of the last evaluation

    @property
    def change(self) -> float:
        """Nats it rose (forgotten) or, below 0, fell (learned)."""
        return self.after - self.before


def continues(start: StartConfig) -> bool:
    """Return whether a run begins with other weights at clock 0; a branch goes on where its run was."""
    return start.source is not None and "clock" not in start.keep


def losses_by_stream(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses of single streams among the figures of one evaluation; none where it read only one."""
    return {key.removeprefix(_PREFIX): value for key, value in figures.items() if key.startswith(_PREFIX)}


def before_and_after(lines: Sequence[Mapping[str, Any]]) -> list[BeforeAfter]:
    """Return the streams that both the source at clock 0 and a later evaluation have a loss of.

    Args:
        lines: of ``metrics.jsonl``; a run that branched off has no evaluation at clock 0, and so no rows.
    """
    evals = [line for line in lines if "eval_loss" in line]
    if len(evals) < 2 or evals[0]["tokens"] != 0:
        return []
    first, last = losses_by_stream(evals[0]), losses_by_stream(evals[-1])
    return [BeforeAfter(name, first[name], last[name]) for name in first if name in last]


def table_of(rows: Sequence[BeforeAfter], end_tokens: int) -> Table:
    """Return the rows as a table for the console."""
    table = Table(
        "stream", "source", f"after {approximate_tokens(end_tokens)} tokens", "change", title="validation loss"
    )
    for row in rows:
        table.add_row(row.stream, f"{row.before:.4f}", f"{row.after:.4f}", f"{row.change:+.4f}")
    return table


def plot_forgetting(runs: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
    """Draw the validation loss of every stream against tokens, a panel a stream, with the source as a dashed line.

    Args:
        runs: lines of ``metrics.jsonl`` by what the run is called in the legend; all continue the same source.
        out: the PNG.
    """
    curves = {name: [line for line in lines if losses_by_stream(line)] for name, lines in runs.items()}
    streams = list(dict.fromkeys(stream for evals in curves.values() for stream in losses_by_stream(evals[0])))
    figure = Figure(figsize=(4.6 * len(streams), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(streams), squeeze=False)[0]
    for axis, stream in zip(panels, streams, strict=True):
        for colour, (name, evals) in zip(COLOURS, curves.items(), strict=False):
            losses = [losses_by_stream(line).get(stream) for line in evals]
            axis.plot([line["tokens"] for line in evals], losses, "o-", color=colour, ms=3.5, lw=1.3, label=name)
        before = losses_by_stream(next(iter(curves.values()))[0]).get(stream)
        if before is not None:
            axis.axhline(before, color="#555555", ls="--", lw=1, label="source")
        axis.set_title(stream)
        axis.set_xlabel("clock (tokens)")
        axis.xaxis.set_major_formatter(lambda value, _: approximate_tokens(value))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    panels[0].set_ylabel("validation loss (nats a masked token)")
    figure.savefig(out, dpi=130)
