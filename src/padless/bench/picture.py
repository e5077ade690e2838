"""The picture of a bench of speed: a bar a figure, grouped by case, with least and largest value as whiskers."""

from pathlib import Path

from padless.bench.result import BenchResult, Figure, number_text

_COLOURS = ("#1f4e8c", "#d68910", "#c0392b", "#117864", "#7d3c98", "#566573")
_GAP = 0.4  # between cases, in bars


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture: one panel a unit; nothing where there are no figures."""
    if not result.figures:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    units = list(dict.fromkeys(each.unit for each in result.figures))
    panels = [[each for each in result.figures if each.unit == unit] for unit in units]
    heights = [0.8 + 0.34 * len(panel) for panel in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    who = list(dict.fromkeys(each.who for each in result.figures))
    for axis, panel, unit in zip(axes[:, 0], panels, units, strict=True):
        _bars(axis, panel, who)
        axis.set_xlabel(unit)
    figure.suptitle(f"padless bench {result.bench}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(axis, panel: list[Figure], who: list[str]) -> None:  # noqa: ANN001  (matplotlib has no small type for it)
    cases = list(dict.fromkeys(each.case for each in panel))
    places = [number + _GAP * cases.index(each.case) for number, each in enumerate(panel)]
    for place, each in zip(places, panel, strict=True):
        whiskers = [[each.median - min(each.values)], [max(each.values) - each.median]]
        colour = _COLOURS[who.index(each.who) % len(_COLOURS)]
        axis.barh(place, each.median, color=colour, xerr=whiskers, capsize=2, ecolor="#333333")
        axis.text(max(each.values), place, f" {number_text(each.median)}", va="center", fontsize=8)
    axis.set_yticks(places, [f"{each.case}: {each.who}" for each in panel], fontsize=8)
    axis.set_ylim(places[-1] + 0.7, -0.7)
    axis.set_xlim(0, max(max(each.values) for each in panel) * 1.15)
    axis.xaxis.set_major_formatter("{x:,.10g}")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
