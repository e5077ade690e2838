"""What ``padless bench chaos`` shows: a line a kill, a table at the end, a JSON file, a picture."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from padless.bench.chaos import GONE_WITHIN_S, Outcome, Series
from padless.bench.kills import ORDER
from padless.units import approximate_tokens

_TARGETS = ("rank", "ranks", "launcher")
_COLOURS = {"rank": "#1f4e8c", "ranks": "#c0392b", "launcher": "#d68910"}


class Lines:
    """Prints a line for each kill, with the time left.

    Args:
        console: where to.
        total: kills in all.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._began_s = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tell(self, outcome: Outcome) -> None:
        """Print a kill and what came after it."""
        self._done += 1
        left_s = (time.monotonic() - self._began_s) / self._done * (self._total - self._done)
        self.say(f"{outcome_line(outcome, self._total)}  ETA {int(left_s) // 60}:{int(left_s) % 60:02d}")


def outcome_line(outcome: Outcome, total: int) -> str:
    """Return one kill as a line."""
    kill = outcome.kill
    target = f"rank {kill.rank}" if kill.target == "rank" else kill.target
    head = f"kill {kill.number:>2}/{total}  {kill.processes} proc {kill.launcher:<8}  {kill.event:<19}  {target:<8}"
    line = f"{head}  at {approximate_tokens(outcome.clock_tokens):>6} tokens"
    if outcome.problem is not None:
        line += f"  {outcome.problem.upper() if not outcome.happened else outcome.problem}"
    if not outcome.came_up:
        return f"{line}  NO START CAME UP AFTER IT"
    if outcome.resume_s is None:
        return f"{line}  then nothing left to train"
    batch = f", first batch {outcome.first_batch_s:.1f} s" if outcome.first_batch_s is not None else ""
    return f"{line}  then first new step after {outcome.resume_s:.1f} s{batch}"


def summary(series: Sequence[Series]) -> str:
    """Return the one line that counts: survived, tried, the slowest resume."""
    outcomes = [(each, outcome) for each in series for outcome in each.outcomes]
    survived = sum(each.survived(outcome) for each, outcome in outcomes)
    resumes = [outcome for _, outcome in outcomes if outcome.resume_s is not None]
    line = f"survived {survived}/{len(outcomes)}"
    if resumes:
        slowest = max(resumes, key=lambda outcome: outcome.resume_s or 0.0)
        line += f", slowest resume {slowest.resume_s:.1f} s (start of the process to its first new step"
        line += f"; first batch after {slowest.first_batch_s:.1f} s)" if slowest.first_batch_s is not None else ")"
    slow_end = max((outcome.gone_s for _, outcome in outcomes), default=0.0)
    return f"{line}; after a kill all other processes were gone within {slow_end:.1f} s (limit {GONE_WITHIN_S:.0f} s)"


def failures(series: Sequence[Series]) -> list[str]:
    """Return what did not survive, one line each; runs that ended differently first."""
    lines = [f"{each.processes} process(es): {line}" for each in series for line in each.differences[:3]]
    for each in series:
        for outcome in each.outcomes:
            if not outcome.happened or outcome.survivors or not outcome.came_up:
                problem = outcome.problem or "no start came up after it"
                lines.append(f"kill {outcome.kill.number} ({outcome.kill.event}, {outcome.kill.target}): {problem}")
    return lines


def table(series: Sequence[Series]) -> Table:
    """Return survived/tried by event and target."""
    tried, survived = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in series:
        for outcome in each.outcomes:
            for target in (outcome.kill.target, "all"):
                tried[outcome.kill.event, target] += 1
                survived[outcome.kill.event, target] += each.survived(outcome)
    shown = Table(title="survived/tried", title_justify="left")
    shown.add_column("killed at")
    for target in (*_TARGETS, "all"):
        shown.add_column({"rank": "one rank", "ranks": "all ranks"}.get(target, target), justify="right")
    for event in ORDER:
        if tried[event, "all"]:
            cells = [_share(survived[event, target], tried[event, target]) for target in (*_TARGETS, "all")]
            shown.add_row(event, *cells)
    return shown


def _share(survived: int, tried: int) -> str:
    return f"{survived}/{tried}" if tried else "-"


def as_plain(series: Sequence[Series], seed: int, wall_s: float) -> dict[str, Any]:
    """Return everything as JSON-able values."""
    return {
        "ok": not failures(series),
        "summary": summary(series),
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "gone_within_s": GONE_WITHIN_S,
        "failures": failures(series),
        "series": [
            {
                "processes": each.processes,
                "bit_equal": not each.differences,
                "differences": each.differences,
                "kills": [{**asdict(outcome), "survived": each.survived(outcome)} for outcome in each.outcomes],
            }
            for each in series
        ],
    }


def draw(series: Sequence[Series], out: Path) -> None:
    """Draw the clock over the time on the wall, one panel for each number of processes, with the kills marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(series), 1, figsize=(11, 3.6 * len(series)), squeeze=False, layout="constrained")
    for axis, each in zip(axes[:, 0], series, strict=True):
        top_tokens = max((clock for clocks in each.clocks for _, clock in clocks), default=1)
        starts = [clocks for clocks in each.clocks if clocks]
        for before, after in pairwise(starts):
            axis.plot(*zip(before[-1], after[0], strict=True), ":", color="#999999", lw=0.9)
        for clocks in starts:
            axis.plot(*zip(*clocks, strict=True), ".-", color="#444444", lw=1.4, ms=2)
        for outcome in each.outcomes:
            place = (outcome.wall_s, outcome.clock_tokens)
            mark = "o" if each.survived(outcome) else "X"
            axis.plot(*place, mark, color=_COLOURS[outcome.kill.target], ms=6)
            axis.annotate(
                f"{outcome.kill.number} {outcome.kill.event}", place, xytext=(3, -4), textcoords="offset points",
                fontsize=7, rotation=-35, ha="left", va="top",
            )  # fmt: skip
        ends = "ends bit-equal" if not each.differences else "ENDS DIFFERENTLY"
        survived = sum(each.survived(outcome) for outcome in each.outcomes)
        axis.set_title(
            f"{each.processes} process(es): {survived}/{len(each.outcomes)} kills survived, {ends}",
            loc="left",
            fontsize=10,
        )
        axis.set_ylabel("clock (tokens)")
        axis.yaxis.set_major_formatter(lambda value, _: approximate_tokens(value) if value >= 0 else "")
        axis.set_ylim(-0.4 * top_tokens, 1.08 * top_tokens)  # labels hang below their marks
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    for target, colour in _COLOURS.items():
        name = {"rank": "one rank", "ranks": "all ranks"}.get(target, target)
        axes[0, 0].plot([], [], "o", color=colour, label=f"SIGKILL of {name}")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    axes[-1, 0].set_xlabel("seconds since the first start")
    figure.savefig(out, dpi=130)
    plt.close(figure)
