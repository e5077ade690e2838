"""The picture of two runs: both losses and validations against tokens, phases shaded, their difference below."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from padless.data.picture_file import writing_picture
from padless.diff.losses import LossComparison
from padless.diff.read import Run
from padless.units import approximate_tokens

_SHADES = ("#dfe9f5", "#f6ecd9", "#e2f0e0", "#f3e1e6", "#e8e4f2")
_SMOOTHED_STEPS = 25
_A, _B = ("#1f4e8c", "#9db4cf"), ("#c0392b", "#e3aaa3")  # of means and of single steps


def plot_difference(a: Run, b: Run, comparison: LossComparison, out: Path) -> None:
    """Draw the two runs into a PNG.

    Args:
        a: the first run.
        b: the second run. The phases of the longer one are shaded, borders of the other that lie elsewhere are dotted.
        comparison: where they part, from :func:`padless.diff.losses.compare_losses`.
        out: the PNG.

    Raises:
        ConfigError: it cannot be written there.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    _shade(upper, lower, a, b)
    width = max(1, min(_SMOOTHED_STEPS, len(a.steps) // 10, len(b.steps) // 10))
    for run, letter, colours in ((a, "A", _A), (b, "B", _B)):
        _draw_losses(upper, run, letter, colours, width)
    upper.set_ylabel("MLM loss (nats)")
    _draw_difference(lower, a, b, width)
    parted = comparison.losses.differs_at_tokens
    if parted is not None:
        for axis in (upper, lower):
            label = f"first difference, at {approximate_tokens(parted)}" if axis is upper else None
            axis.axvline(parted, color="#333333", ls=(0, (4, 3)), lw=1, label=label)
    upper.legend(loc="upper right", fontsize=8)
    if lower.get_legend_handles_labels()[0]:
        lower.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    lower.set_xlabel("clock (tokens)")
    lower.xaxis.set_major_formatter(lambda value, _: approximate_tokens(value))
    with writing_picture(out) as file:
        figure.savefig(file, format="png", dpi=130)


def phase_spans(run: Run) -> list[tuple[str, int, int]]:
    """Return (name, first clock, last clock) of each phase that a run has been in, in order."""
    spans: list[tuple[str, int, int]] = []
    begin = run.begin_tokens
    for step in run.steps:
        if spans and spans[-1][0] == step.phase:
            spans[-1] = (step.phase, spans[-1][1], step.tokens)
        else:
            spans.append((step.phase, begin, step.tokens))
        begin = step.tokens
    return spans


def _shade(upper: Axes, lower: Axes, a: Run, b: Run) -> None:
    is_a_longer = a.steps[-1].tokens >= b.steps[-1].tokens
    longer, shorter = (a, b) if is_a_longer else (b, a)
    letter, colour = ("B", _B[0]) if is_a_longer else ("A", _A[0])
    spans = phase_spans(longer)
    before = [(name, begin, min(end, spans[0][1])) for name, begin, end in phase_spans(shorter) if begin < spans[0][1]]
    spans = [*before, *spans]
    for number, (name, begin, end) in enumerate(spans):
        for axis in (upper, lower):
            axis.axvspan(begin, end, color=_SHADES[number % len(_SHADES)], lw=0)
        place = ((begin + end) / 2, 0.03)
        upper.annotate(name, place, xycoords=("data", "axes fraction"), ha="center", va="bottom", weight="bold")
    borders = {begin for _, begin, _ in spans}
    for name, begin, _ in phase_spans(shorter)[1:]:
        if begin not in borders:
            _mark(upper, begin, f"{letter}: {name}", colour, 0.09)
    for run, its_letter, its_colour in ((a, "A", _A[0]), (b, "B", _B[0])):
        if run.begin_tokens > 0:
            _mark(upper, run.begin_tokens, f"{its_letter} begins", its_colour, 0.15)
    for axis in (upper, lower):
        axis.margins(x=0)
        axis.grid(alpha=0.3)


def _mark(axis: Axes, clock: int, text: str, colour: str, height: float) -> None:
    axis.axvline(clock, color=colour, ls=":", lw=1.2)
    place = (clock, height)
    axis.annotate(f" {text}", place, xycoords=("data", "axes fraction"), color=colour, va="bottom", fontsize=8)


def _draw_losses(axis: Axes, run: Run, letter: str, colours: tuple[str, str], width: int) -> None:
    name = f"{letter}: {run.folder}"
    tokens, losses = _finite_losses(run)
    axis.plot(tokens, losses, color=colours[1], lw=0.6)
    smooth_tokens, smooth = _smoothed(tokens, losses, width)
    style = "-" if letter == "A" else "--"
    label = f"{name}, mean of {width} steps" if width > 1 else f"{name}, each step"
    axis.plot(smooth_tokens, smooth, color=colours[0], lw=1.6, ls=style, label=label)
    if run.validation:
        marker, size = ("o", 6) if letter == "A" else ("x", 5)
        clocks, values = list(run.validation), list(run.validation.values())
        axis.plot(clocks, values, marker, color=colours[0], ms=size, label=f"{letter}, validation", clip_on=False)


def _draw_difference(axis: Axes, a: Run, b: Run, width: int) -> None:
    """Draw B - A: of single steps at common clocks, of means over the range that both have, and of validations."""
    tokens_a, losses_a = _finite_losses(a)
    tokens_b, losses_b = _finite_losses(b)
    common, in_a, in_b = np.intersect1d(tokens_a, tokens_b, return_indices=True)
    if len(common):
        axis.plot(common, losses_b[in_b] - losses_a[in_a], color="#b9b3c4", lw=0.6, label="B - A, each step")
    smooth_tokens_a, smooth_a = _smoothed(tokens_a, losses_a, width)
    smooth_tokens_b, smooth_b = _smoothed(tokens_b, losses_b, width)
    if len(smooth_tokens_a) and len(smooth_tokens_b):
        both = (smooth_tokens_a >= smooth_tokens_b[0]) & (smooth_tokens_a <= smooth_tokens_b[-1])
        gap = np.interp(smooth_tokens_a[both], smooth_tokens_b, smooth_b) - smooth_a[both]
        axis.plot(smooth_tokens_a[both], gap, color="#5b3f8c", lw=1.6, label="B - A, of the means")
    evaluated = [clock for clock in a.validation if clock in b.validation]
    if evaluated:
        gaps = [b.validation[clock] - a.validation[clock] for clock in evaluated]
        axis.plot(evaluated, gaps, "D", color="#2d7a46", ms=4, label="B - A, validation", clip_on=False)
    axis.axhline(0, color="#555555", lw=0.8)
    axis.set_ylabel("difference (nats)")


def _finite_losses(run: Run) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(step.tokens, step.loss) for step in run.steps if step.loss is not None]
    return np.array([tokens for tokens, _ in pairs], dtype=np.int64), np.array([loss for _, loss in pairs])


def _smoothed(tokens: np.ndarray, losses: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the clocks in the middle of each window of ``width`` steps, and the means."""
    if len(losses) < width:
        return tokens[:0], losses[:0]
    middle = width // 2
    return tokens[middle : middle + len(losses) - width + 1], np.convolve(losses, np.ones(width) / width, mode="valid")
