"""From which clock on two runs computed something else: losses bit for bit, blocks by digest, and how far each came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from padless.diff.read import Run, Step


@dataclass(frozen=True)
class Agreement:
    """How far two runs have the same value at the same clocks.

    Attributes:
        same_until_tokens: last clock of which everything up to it is the same; 0 if nothing is.
        same_steps: steps up to there.
        differs_at_tokens: first clock where it is not, None if it is the same as far as both go.
        a: value of the first run there; None also where it has no step at that clock.
        b: value of the second run there.
    """

    same_until_tokens: int
    same_steps: int
    differs_at_tokens: int | None
    a: float | str | None
    b: float | str | None


@dataclass(frozen=True)
class Reached:
    """How far one run has come, and how fast."""

    tokens: int
    steps: int
    phase: str
    last_loss: float | None
    last_validation_tokens: int | None
    last_validation_loss: float | None
    real_tokens_per_s: float | None  # filler not counted; over all steps that are in the metrics


@dataclass(frozen=True)
class LossComparison:
    """Losses and blocks of two runs."""

    common_steps: int
    losses: Agreement
    blocks: Agreement
    validation: Agreement
    largest_difference: float | None  # of training losses at common clocks, nats; None if no clock is common or finite
    largest_difference_at_tokens: int | None
    common_validation: tuple[int, float, float] | None  # last clock at which both were validated, and the losses there
    a: Reached
    b: Reached

    @property
    def parted_at_tokens(self) -> int | None:
        """First clock at which anything differs, None if nothing does as far as both runs go."""
        parts = (self.losses, self.blocks, self.validation)
        return min((part.differs_at_tokens for part in parts if part.differs_at_tokens is not None), default=None)


def compare_losses(a: Run, b: Run) -> LossComparison:
    """Compare two runs at the clocks they share; a clock that one of them left out, before its end, is a difference."""
    losses_a: dict[int, Any] = {step.tokens: step.loss for step in a.steps}
    losses_b: dict[int, Any] = {step.tokens: step.loss for step in b.steps}
    common = [clock for clock in losses_a if clock in losses_b]
    finite = [clock for clock in common if losses_a[clock] is not None and losses_b[clock] is not None]
    gaps = {clock: abs(losses_a[clock] - losses_b[clock]) for clock in finite}
    widest = max(gaps, default=None, key=lambda clock: gaps[clock])
    evaluated = max(a.validation.keys() & b.validation.keys(), default=None)
    return LossComparison(
        common_steps=len(common),
        losses=_agreement(_said(losses_a), _said(losses_b)),
        blocks=_agreement(
            {step.tokens: step.blocks for step in a.steps}, {step.tokens: step.blocks for step in b.steps}
        ),
        validation=_agreement(a.validation, b.validation, gaps_count=False),
        largest_difference=None if widest is None else gaps[widest],
        largest_difference_at_tokens=widest,
        common_validation=None if evaluated is None else (evaluated, a.validation[evaluated], b.validation[evaluated]),
        a=_reached(a),
        b=_reached(b),
    )


def _said(losses: Mapping[int, float | None]) -> dict[int, float | str]:
    return {clock: "not finite" if loss is None else loss for clock, loss in losses.items()}


def _agreement(a: Mapping[int, float | str], b: Mapping[int, float | str], gaps_count: bool = True) -> Agreement:
    """Walk the clocks up to the end of the shorter run.

    Args:
        a: value by clock.
        b: the same of the other run.
        gaps_count: a clock that only one run has is a difference.
    """
    end = min(max(a, default=0), max(b, default=0))
    clocks = sorted({*a, *b}) if gaps_count else sorted(a.keys() & b.keys())
    until = steps = 0
    for clock in clocks:
        if clock > end:
            break
        if clock not in a or clock not in b or a[clock] != b[clock]:
            return Agreement(until, steps, clock, a.get(clock), b.get(clock))
        until, steps = clock, steps + 1
    return Agreement(until, steps, None, None, None)


def _reached(run: Run) -> Reached:
    last = run.steps[-1]
    clock = max(run.validation, default=None)
    return Reached(
        tokens=last.tokens,
        steps=last.step,
        phase=last.phase,
        last_loss=last.loss,
        last_validation_tokens=clock,
        last_validation_loss=None if clock is None else run.validation[clock],
        real_tokens_per_s=_throughput(run.steps),
    )


def _throughput(steps: list[Step]) -> float | None:
    seconds = sum(step.seconds for step in steps)
    return sum(step.real_tokens for step in steps) / seconds if seconds > 0 else None
