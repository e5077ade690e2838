"""The picture of a whole schedule over tokens: learning rate, batch, mask rate, cap on segments, RoPE thetas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from padless.config.schema import Config
from padless.data.picture_file import writing_picture
from padless.plan.estimate import all_phases
from padless.schedule.phases import PhasePlan
from padless.schedule.step import StepSettings, settings_at

_POINTS = 600  # of a phase
_BRANCHES = ("#d68910", "#c0392b", "#117864", "#7d3c98")
_MAIN, _SECOND, _BORDER = "#1f4e8c", "#d68910", "#999999"
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, ""))


def draw_schedule(config: Config, path: Path) -> None:
    """Write the picture of a configuration's phases; branches have colours of their own.

    Raises:
        ConfigError: it cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    phases = all_phases(config)
    scale, unit = next(pair for pair in _SCALES if max(plan.actual_end_tokens for plan, _ in phases) >= pair[0])
    figure, axes = plt.subplots(5, 1, figsize=(10, 10), sharex=True)
    panels: tuple[tuple[str, Callable[[StepSettings, PhasePlan], float]], ...] = (
        ("learning rate", lambda step, _: step.lr),
        ("batch, tokens", lambda step, plan: step.batch_blocks * plan.block_tokens),
        ("mask rate", lambda step, _: step.mask_rate),
    )
    colours = _colours(phases)
    for axis, (label, value) in zip(axes, panels, strict=False):
        for (plan, _), colour in zip(phases, colours, strict=True):
            clocks = points_of(plan)
            axis.plot(
                [clock / scale for clock in clocks],
                [value(settings_at(plan, clock), plan) for clock in clocks],
                color=colour,
            )
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.12 * max(float(each) for line in axis.get_lines() for each in line.get_ydata()))
    axes[0].ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes[1].yaxis.set_major_formatter(lambda value, _: _tokens(value))
    _lengths(axes[3], phases, scale, colours)
    _thetas(axes[4], phases, scale)
    axes[4].set_xlabel(f"tokens of the run{f', {unit}' if unit else ''}")
    _borders(axes, phases, scale)
    figure.suptitle(f"{config.run.name}: the schedule")
    figure.align_ylabels(axes)
    figure.tight_layout()
    with writing_picture(path) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def points_of(plan: PhasePlan) -> list[int]:
    """Return clocks at which steps of a phase begin: evenly over it, and at both sides of each batch size's border."""
    last = plan.steps_in_phase - 1
    steps = {round(number * last / _POINTS) for number in range(_POINTS + 1)} if last > 0 else {0}
    for start_block, _ in plan.levels[1:]:
        border = plan.step_at_clock(plan.start_tokens + start_block * plan.block_tokens)
        steps |= {step for step in (border - 1, border) if 0 <= step <= last}
    return [plan.clock_at_step(step) for step in sorted(steps)]


def _colours(phases: list[tuple[PhasePlan, bool]]) -> list[str]:
    branches = [plan.name for plan, is_branch in phases if is_branch]
    return [_BRANCHES[branches.index(plan.name) % len(_BRANCHES)] if is_branch else _MAIN for plan, is_branch in phases]


def _lengths(axis: Any, phases: list[tuple[PhasePlan, bool]], scale: float, colours: list[str]) -> None:
    for (plan, _), colour in zip(phases, colours, strict=True):
        axis.plot(_ends(plan, scale), [plan.phase.max_seq_len] * 2, color=colour, linewidth=2)
    caps = sorted({plan.phase.max_seq_len for plan, _ in phases})
    axis.set_yscale("log", base=2)
    axis.set_yticks(caps, [str(cap) for cap in caps])
    axis.minorticks_off()
    axis.set_ylim(caps[0] / 2, caps[-1] * 2)
    axis.set_ylabel("max_seq_len,\ntokens")


def _thetas(axis: Any, phases: list[tuple[PhasePlan, bool]], scale: float) -> None:
    for number, (plan, _) in enumerate(phases):
        labels = ("global layers", "local layers") if number == 0 else (None, None)
        rope = plan.phase.rope
        axis.plot(_ends(plan, scale), [rope.global_theta] * 2, color=_MAIN, linewidth=2, label=labels[0])
        axis.plot(
            _ends(plan, scale), [rope.local_theta] * 2, color=_SECOND, linestyle=":", linewidth=3, label=labels[1]
        )
    values = [theta for plan, _ in phases for theta in (plan.phase.rope.global_theta, plan.phase.rope.local_theta)]
    axis.set_yscale("log")
    axis.set_ylim(min(values) / 4, max(values) * 4)
    axis.set_ylabel("RoPE theta")
    axis.legend(loc="upper left", fontsize=8)


def _ends(plan: PhasePlan, scale: float) -> list[float]:
    return [plan.start_tokens / scale, plan.actual_end_tokens / scale]


def _borders(axes: Any, phases: list[tuple[PhasePlan, bool]], scale: float) -> None:
    """Draw where phases begin, and write their names above the first panel, one step higher where they are narrow."""
    whole = max(plan.actual_end_tokens for plan, _ in phases)
    height, previous = 0, -1.0
    branches = [plan.name for plan, is_branch in phases if is_branch]
    shown = [(plan, plan.name) for plan, is_branch in phases if not is_branch]
    if branches:
        first = next(plan for plan, is_branch in phases if is_branch)
        shown.append((first, f"{len(branches)} branches" if len(branches) > 1 else branches[0]))
    for plan, name in shown:
        for axis in axes:
            axis.axvline(plan.start_tokens / scale, color=_BORDER, linewidth=0.8, linestyle="--")
        middle = (plan.start_tokens + plan.actual_end_tokens) / 2 / whole
        height = height + 1 if middle - previous < 0.011 * len(name) + 0.02 else 0
        previous = middle
        place = (plan.start_tokens + plan.actual_end_tokens) / 2 / scale
        axes[0].annotate(
            name,
            (place, 1.0),
            xytext=(0, 4 + 12 * height),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def _tokens(value: float) -> str:
    size, unit = next((pair for pair in _SCALES if value >= pair[0]), (1.0, ""))
    return f"{value / size:.3g}{unit}"
