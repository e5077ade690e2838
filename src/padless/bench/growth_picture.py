"""The picture of ``padless bench growth``: validation loss against tokens, a panel a target, a band over the seeds."""

from collections.abc import Sequence
from pathlib import Path

from padless.bench.growth_figures import RANDOM, SOURCE, Curve, loss_at

_COLOURS = {
    RANDOM: "#444444",
    "tiled": "#1f4e8c",
    "published": "#c0392b",
    "edge": "#7d3c98",
    "centre": "#d68910",
    "noise": "#117864",
    "moments": "#2e9ad0",
    "silent": "#b7950b",
    "silent-noise": "#ca6f9e",
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
    "silent-noise": "repeated_layers=silent, noise",
}


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
    figure, axes = plt.subplots(
        1, len(targets), figsize=(6.2 * len(targets), 5.2), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, target in zip(axes[0], targets, strict=True):
        here = [curve for curve in curves if curve.target == target and curve.variant != SOURCE]
        for variant in dict.fromkeys(curve.variant for curve in here):
            _band(axis, [curve for curve in here if curve.variant == variant], variant)
        axis.axhline(source.evaluations[-1][1], color="#888888", ls=":", lw=1.2, label=f"source {source.target}, end")
        axis.set_title(f"{source.target} grown to {target} (layers x width), {_seeds(here)} seed(s)", fontsize=10)
        axis.set_xlabel("tokens of the larger model (thousands)")
        axis.grid(alpha=0.3)
        axis.set_xlim(left=0)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("validation loss (nats a masked token)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _band(axis, runs: Sequence[Curve], variant: str) -> None:  # noqa: ANN001  (matplotlib has no small type for it)
    clocks = [tokens for tokens, _ in runs[0].evaluations]
    values = [[loss_at(run, clock) for run in runs] for clock in clocks]
    thousands = [clock / 1e3 for clock in clocks]
    colour = _COLOURS[variant]
    axis.plot(thousands, [sum(each) / len(each) for each in values], color=colour, lw=1.6, label=_WORDS[variant])
    axis.fill_between(
        thousands, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.18
    )


def _seeds(curves: Sequence[Curve]) -> int:
    return len({curve.seed for curve in curves})
