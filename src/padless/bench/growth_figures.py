"""What the runs of ``padless bench growth`` showed: losses at equal tokens, and tokens that a grown model saves.

A grown model is compared with the random start of its own seed, which sees the same data in the same order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.bench.figures import read_figures
from padless.bench.result import BenchResult, Figure

RANDOM, SOURCE, CONTINUED = "random", "source", "continued"
_TWINS = "eval_twin_distance_"
_AT_0 = "nats, validation at 0 tokens"


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        variant: random, source, continued (the source, trained on), or a way of tiling.
        target: shape it is compared at.
        seed: the run's.
        losses: (tokens, nats) of each step.
        evaluations: (tokens, nats) of each validation, the first at 0 tokens.
        twins: distance of copies at the end, by kind of unit.
        cpu_seconds: of its steps.
        copies: exact copies and units right after growing, by kind.
        source_loss: of the source on this run's validation text (masks are the seed's); None for a random start.
    """

    variant: str
    target: str
    seed: int
    losses: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, float], ...]
    twins: dict[str, float]
    cpu_seconds: float
    copies: dict[str, tuple[int, int]]
    source_loss: float | None

    @property
    def tokens(self) -> int:
        """Tokens it was trained on."""
        return self.losses[-1][0]


def read_curve(folder: Path, variant: str, target: str, seed: int) -> Curve:
    """Return the curve of a run that is done."""
    lines = read_figures(folder)
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval_loss" in line]
    growth: dict[str, Any] = {}
    if (folder / "growth.json").is_file():
        growth = json.loads((folder / "growth.json").read_text(encoding="utf-8"))
    return Curve(
        variant,
        target,
        seed,
        tuple((line["tokens"], line["loss"]) for line in steps),
        tuple((line["tokens"], line["eval_loss"]) for line in evaluations),
        {key.removeprefix(_TWINS): value for key, value in evaluations[-1].items() if key.startswith(_TWINS)},
        sum(line["cpu_seconds"] for line in steps),
        {kind: (copies, units) for kind, (copies, units) in growth.get("copies", {}).items()},
        growth.get("losses", {}).get("source"),
    )


def loss_at(curve: Curve, tokens: int) -> float:
    """Return the validation loss at a clock, between two validations on a straight line.

    Args:
        curve: the run.
        tokens: the clock, from 0 to the run's end.
    """
    before = max((each for each in curve.evaluations if each[0] <= tokens), key=lambda each: each[0])
    after = min((each for each in curve.evaluations if each[0] >= tokens), key=lambda each: each[0])
    if before[0] == after[0]:
        return before[1]
    share = (tokens - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])


def tokens_to_reach(curve: Curve, loss: float) -> float | None:
    """Return the clock at which the validation loss first falls to ``loss``; None where it never does."""
    last: tuple[int, float] | None = None
    for tokens, found in curve.evaluations:
        if found <= loss:
            if last is None:
                return float(tokens)
            return last[0] + (last[1] - loss) / (last[1] - found) * (tokens - last[0])
        last = (tokens, found)
    return None


def as_result(curves: Sequence[Curve], end_tokens: int, facts: dict[str, Any]) -> BenchResult:
    """Return figures of the runs, one value a seed.

    Args:
        curves: all runs.
        end_tokens: clock at which losses are compared.
        facts: settings.
    """
    result = BenchResult("growth", facts=dict(facts))
    (source,) = (curve for curve in curves if curve.variant == SOURCE)
    for target in dict.fromkeys(curve.target for curve in curves if curve.variant != SOURCE):
        here = [curve for curve in curves if curve.target == target and curve.variant != SOURCE]
        random = {curve.seed: curve for curve in here if curve.variant == RANDOM}
        known = {curve.seed: curve.source_loss for curve in here if curve.source_loss is not None}
        result.figures.append(Figure(target, f"the source, {source.target}", _AT_0, tuple(known.values())))
        for variant in dict.fromkeys(curve.variant for curve in here):
            runs = [curve for curve in here if curve.variant == variant]
            result.figures += _losses(target, variant, runs, end_tokens)
            if variant != RANDOM:
                result.figures += _against_random(target, variant, runs, random, end_tokens)
                result.notes += _never_reached(target, variant, runs, random, end_tokens)
        result.notes.append(_worth(source, target, list(random.values())))
    result.figures.sort(key=lambda figure: figure.unit)
    return result


def _losses(target: str, variant: str, runs: Sequence[Curve], end_tokens: int) -> list[Figure]:
    at_end = tuple(loss_at(run, end_tokens) for run in runs)
    figures = [
        Figure(target, variant, f"nats, validation at {end_tokens:,} tokens", at_end),
        Figure(target, variant, _AT_0, tuple(run.evaluations[0][1] for run in runs)),
    ]
    for kind in runs[0].twins:
        unit = f"distance of copies at the end, {kind} (0 equal, 1 unrelated)"
        figures.append(Figure(target, variant, unit, tuple(run.twins[kind] for run in runs)))
    return figures


def _against_random(
    target: str, variant: str, runs: Sequence[Curve], random: dict[int, Curve], end_tokens: int
) -> list[Figure]:
    gains = tuple(loss_at(random[run.seed], end_tokens) - loss_at(run, end_tokens) for run in runs)
    begun = tuple(_needed(random[run.seed], loss_at(run, 0)) for run in runs)
    saved = tuple(_needed(random[run.seed], loss_at(run, end_tokens)) - end_tokens for run in runs)
    return [
        Figure(target, variant, f"nats below the random start at {end_tokens:,} tokens", gains),
        Figure(target, variant, "tokens a random start needs to the loss it begins with", begun),
        Figure(target, variant, f"tokens saved at the loss it has at {end_tokens:,} tokens", saved),
    ]


def _needed(random: Curve, loss: float) -> float:
    """Return the clock at which a random start has a loss; all of its length where it never gets there."""
    needed = tokens_to_reach(random, loss)
    return float(random.tokens) if needed is None else needed


def _never_reached(
    target: str, variant: str, runs: Sequence[Curve], random: dict[int, Curve], end_tokens: int
) -> list[str]:
    missed = sum(tokens_to_reach(random[run.seed], loss_at(run, end_tokens)) is None for run in runs)
    if missed == 0:
        return []
    length = next(iter(random.values())).tokens
    return [
        f"{target} {variant}: {missed} of {len(runs)} random starts never got to its loss within {length:,} tokens, so "
        "more is saved than the table says."
    ]


def _worth(source: Curve, target: str, random: Sequence[Curve]) -> str:
    seconds_a_token = sum(each.cpu_seconds / each.tokens for each in random) / len(random)
    return (
        f"{target}: training the source took as many CPU seconds as {source.cpu_seconds / seconds_a_token:,.0f} tokens "
        f"of this model ({source.tokens:,} tokens of its own)."
    )
