"""The picture of a run: loss, learning rate and batch size against tokens, with the phases shaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from padless.schedule.phases import PhasePlan
from padless.train.callbacks.metrics import read_metrics
from padless.train.forgetting import COLOURS, losses_by_stream
from padless.units import approximate_tokens

_SHADES = ("#dfe9f5", "#f6ecd9", "#e2f0e0", "#f3e1e6", "#e8e4f2")
_SMOOTHED_STEPS = 25


def plot_run(
    metrics_path: Path,
    plans: Sequence[PhasePlan],
    block_tokens: int,
    unigram: float | None,
    out: Path,
    *,
    draws_streams: bool = False,
) -> None:
    """Draw ``loss.png`` from ``metrics.jsonl``.

    Args:
        metrics_path: lines of steps and of evaluations.
        plans: phases with their borders.
        block_tokens: tokens of a block, for batch sizes in tokens.
        unigram: cross-entropy of guessing by frequency, drawn as a line; None leaves it out.
        out: the PNG.
        draws_streams: also draw the validation loss of each stream.
    """
    lines = read_metrics(metrics_path)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    for axis in axes:
        _shade(axis, plans, steps[-1]["tokens"])
    evals = [line for line in lines if "eval_loss" in line]
    if draws_streams:
        _draw_streams(axes[0], evals)
    _draw_loss(axes[0], steps, evals, unigram)
    tokens = [line["tokens"] for line in steps]
    axes[1].plot(tokens, [line["lr"] for line in steps], color="#7a3b8f")
    axes[1].set_ylabel("learning rate")
    axes[2].step(tokens, [line["batch_blocks"] * block_tokens for line in steps], color="#2d7a46", where="pre")
    axes[2].set_ylabel("batch (tokens)")
    axes[2].set_ylim(bottom=0)
    axes[2].set_xlabel("clock (tokens)")
    axes[2].xaxis.set_major_formatter(lambda value, _: approximate_tokens(value))
    axes[2].yaxis.set_major_formatter(lambda value, _: approximate_tokens(value))
    figure.savefig(out, dpi=130)


def _shade(axis: Axes, plans: Sequence[PhasePlan], last_tokens: int) -> None:
    for plan in plans:
        if plan.start_tokens < last_tokens:
            axis.axvspan(
                plan.start_tokens,
                min(plan.actual_end_tokens, last_tokens),
                color=_SHADES[plan.index % len(_SHADES)],
                lw=0,
            )
    axis.margins(x=0)
    axis.grid(alpha=0.3)


def _draw_streams(axis: Axes, evals: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for line in evals for name in losses_by_stream(line))
    for colour, name in zip(COLOURS[2:], names, strict=False):
        losses = np.array([losses_by_stream(line).get(name) for line in evals], dtype=float)  # None becomes NaN
        label = f"validation, {name}"
        axis.plot([line["tokens"] for line in evals], losses, "s--", color=colour, ms=3, lw=1, label=label)


def _draw_loss(axis: Axes, steps: list[dict[str, Any]], evals: list[dict[str, Any]], unigram: float | None) -> None:
    losses = np.array([line["loss"] for line in steps], dtype=float)  # None, a step that was not finite, is NaN
    tokens = [line["tokens"] for line in steps]
    axis.plot(tokens, losses, color="#9db4cf", lw=0.6, label="train, each step")
    width = min(_SMOOTHED_STEPS, len(losses))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axis.plot(tokens[width - 1 :], smooth, color="#1f4e8c", lw=1.6, label=f"train, mean of {width} steps")
    axis.plot(
        [line["tokens"] for line in evals], [line["eval_loss"] for line in evals], "o-", color="#c0392b", ms=4, lw=1,
        label="validation",
    )  # fmt: skip
    if unigram is not None:
        axis.axhline(unigram, color="#555555", ls="--", lw=1, label="unigram cross-entropy")
    phases: dict[str, list[int]] = {}
    for line in steps:
        phases.setdefault(line["phase"], []).append(line["tokens"])
    for name, seen in phases.items():
        middle = (seen[0] + seen[-1]) / 2
        axis.annotate(name, (middle, 0.97), xycoords=("data", "axes fraction"), ha="center", va="top", weight="bold")
    axis.set_ylabel("MLM loss (nats)")
    axis.legend(loc="lower left", fontsize=8)
