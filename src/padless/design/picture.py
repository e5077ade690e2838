"""The picture of a search: a row a budget; shapes, front and published ones on the left, timed ones on the right."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from padless.data.picture_file import writing_picture
from padless.design.measure import Measured
from padless.design.search import Found, geometric_mean
from padless.design.shapes import shape_name
from padless.units import approximate_tokens

_FRONT, _PUBLISHED, _TIMED = "#1f4e8c", "#c0392b", "#117864"


def draw(founds: Sequence[Found], measured: Sequence[Measured | None], gpus: str, out: Path) -> None:
    """Write a PNG.

    Args:
        founds: a search a budget.
        measured: what was timed, budget by budget; None for nothing.
        gpus: names of the basket, for the title.
        out: the PNG.

    Raises:
        ConfigError: it cannot be written there.
    """
    columns = 2 if any(each is not None for each in measured) else 1
    figure = Figure(figsize=(7.5 * columns if columns == 2 else 9, 0.7 + 4.6 * len(founds)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(founds), columns, squeeze=False, width_ratios=(1.5, 1)[:columns])
    for row, (found, timed) in enumerate(zip(founds, measured, strict=True)):
        _draw_search(figure, axes[row, 0], found)
        if timed is not None:
            _draw_timed(axes[row, 1], timed, {each.candidate.model for each in found.standings})
        elif columns == 2:
            axes[row, 1].set_axis_off()
    figure.suptitle(f"predicted forward pass, geometric mean over inputs and {gpus}", fontsize=11)
    with writing_picture(out) as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_search(figure: Figure, axis: Axes, found: Found) -> None:
    fastest_s = min(each.mean_s for each in found.candidates)

    def time_of(mean_s: float) -> float:
        return mean_s / fastest_s

    dots = axis.scatter(
        [each.model.num_layers for each in found.candidates],
        [time_of(each.mean_s) for each in found.candidates],
        c=[each.model.hidden_size for each in found.candidates],
        cmap="viridis_r",
        s=16,
        alpha=0.8,
    )
    figure.colorbar(dots, ax=axis, label="hidden size", pad=0.01)
    axis.plot(
        [each.model.num_layers for each in found.front],
        [time_of(each.mean_s) for each in found.front],
        color=_FRONT,
        lw=1.2,
        label="front: none as deep is faster",
    )
    for each in found.standings:
        place = (each.candidate.model.num_layers, time_of(each.candidate.mean_s))
        axis.plot(*place, "*", color=_PUBLISHED, ms=14, mec="white", mew=0.6)
        text = (
            f"{each.candidate.published}\n{shape_name(each.candidate.model)}: {each.behind_front:.1%} behind the front"
        )
        axis.annotate(text, place, xytext=(10, -12), textcoords="offset points", color=_PUBLISHED, fontsize=8, va="top")
    axis.set_title(f"{approximate_tokens(found.parameters)} parameters, {len(found.candidates)} shapes", fontsize=10)
    axis.set_xlabel("layers")
    axis.set_ylabel("time (fastest shape = 1)")
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)


def _draw_timed(axis: Axes, measured: Measured, published: set[object]) -> None:
    rows = [each for each in measured.timings if each.predicted_s is not None]
    for each in rows:
        x, y = geometric_mean(each.predicted_s or ()), geometric_mean(each.measured_s)
        is_published = each.model in published
        mark, size, colour = ("*", 12, _PUBLISHED) if is_published else ("o", 6, _TIMED)
        axis.plot(x, y, mark, color=colour, ms=size)
        offset, side = ((8, -8), "left") if is_published else ((-7, 1), "right")
        axis.annotate(
            shape_name(each.model), (x, y), offset, textcoords="offset points", fontsize=8, ha=side, color=colour
        )
    if rows:
        values = [geometric_mean(each.predicted_s or ()) for each in rows] + [
            geometric_mean(each.measured_s) for each in rows
        ]
        ends = (min(values) * 0.5, max(values) * 1.15)
        axis.plot(ends, ends, color="#888888", lw=1, ls="--", label="as predicted")
        axis.set(xlim=ends, ylim=ends)
        axis.legend(loc="upper left", fontsize=8)
    rho = measured.correlation["all"]
    names = ", ".join(each.name for each in measured.workloads)
    said = "unknown" if rho is None else f"{rho:.2f}"
    axis.set_title(f"{measured.device}, {names}: rank correlation {said}", fontsize=10)
    axis.set_xlabel("predicted (s, geometric mean)")
    axis.set_ylabel("measured (s, geometric mean)")
    axis.grid(alpha=0.3)
