"""The picture of ``padless bench growth``: validation loss against tokens, a column a target, a band over the seeds.

Above all of it, below the time that the grown models are trained, around the source's loss.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from padless.bench.growth_figures import CONTINUED, RANDOM, SOURCE, Curve, loss_at

_COLOURS = {
    RANDOM: "#444444",
    "tiled": "#1f4e8c",
    "published": "#c0392b",
    "edge": "#7d3c98",
    "centre": "#d68910",
    "noise": "#117864",
    "moments": "#2e9ad0",
    "silent": "#8d6e63",
    "silent-noise": "#ca6f9e",
    CONTINUED: "#888888",
}
_WORDS = {
    RANDOM: "random start",
    "tiled": "tiled (wrap, fan_in)",
    "published": "scale=published",
    "edge": "mode=edge",
    "centre": "mode=centre",
    "noise": "symmetry_noise_std=0.1",
    "moments": "tile_moments=true",
    "silent": "repeated_layers=silent",
    "silent-noise": "silent, noise 0.1",
    CONTINUED: "source trained on, not grown",
}
_ABOVE_SOURCE = 0.7  # nats that the lower panel reaches above the source's loss


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """Write the picture: the mean over seeds as a line, least to largest as a band, the source's loss as a dotted line.

    Args:
        curves: all runs.
        path: the PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    (source,) = (curve for curve in curves if curve.variant == SOURCE)
    targets = list(dict.fromkeys(curve.target for curve in curves if curve.variant != SOURCE))
    figure, axes = plt.subplots(2, len(targets), figsize=(6.4 * len(targets), 9), squeeze=False, layout="constrained")
    for column, target in enumerate(targets):
        here = [curve for curve in curves if curve.target == target and curve.variant != SOURCE]
        source_loss = fmean(curve.source_loss for curve in here if curve.source_loss is not None)
        for axis in axes[:, column]:
            axis.axhline(source_loss, color="#888888", ls=":", lw=1.2, label=f"source {source.target}")
            for variant in dict.fromkeys(curve.variant for curve in here):
                _band(axis, [curve for curve in here if curve.variant == variant], variant)
            axis.set_ylabel("validation loss (nats a masked token)")
            axis.set_xlabel("tokens (thousands)")
            axis.grid(alpha=0.3)
            axis.set_xlim(left=0)
        seeds = len({curve.seed for curve in here})
        title = f"{source.target} grown to {target} (layers x width); seeds: {seeds}"
        axes[0, column].set_title(title, fontsize=10)
        axes[0, column].legend(fontsize=8, loc="upper right")
        _look_closely(axes[1, column], here, source_loss)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _band(axis, runs: Sequence[Curve], variant: str) -> None:  # noqa: ANN001  (matplotlib has no small type for it)
    clocks = [tokens for tokens, _ in runs[0].evaluations]
    values = [[loss_at(run, clock) for run in runs] for clock in clocks]
    thousands = [clock / 1e3 for clock in clocks]
    colour = _COLOURS[variant]
    style = "--" if variant == CONTINUED else "-"
    means = [fmean(each) for each in values]
    axis.plot(thousands, means, color=colour, lw=1.6, ls=style, label=_WORDS[variant])
    least, most = [min(each) for each in values], [max(each) for each in values]
    axis.fill_between(thousands, least, most, color=colour, alpha=0.15)


def _look_closely(axis, curves: Sequence[Curve], source_loss: float) -> None:  # noqa: ANN001
    grown = [curve for curve in curves if curve.variant != RANDOM]
    end_tokens = max(curve.tokens for curve in grown)
    least = min(loss for curve in grown for _, loss in curve.evaluations)
    axis.set_xlim(0, end_tokens / 1e3)
    axis.set_ylim(least - 0.05, max(source_loss, least) + _ABOVE_SOURCE)
