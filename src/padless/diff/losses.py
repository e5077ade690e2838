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
    """Losses and blocks of two runs, over the clocks that both have been at."""

    from_tokens: int  # the later of the clocks at which the two begin
    to_tokens: int  # the earlier of those at which they end; not after from_tokens where they have none in common
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
    def overlaps(self) -> bool:
        """Whether there is any clock that both runs have been at."""
        return self.from_tokens < self.to_tokens

    @property
    def parted_at_tokens(self) -> int | None:
        """First clock at which anything differs, None if nothing does as far as both runs go."""
        parts = (self.losses, self.blocks, self.validation)
        return min((part.differs_at_tokens for part in parts if part.differs_at_tokens is not None), default=None)


def compare_losses(a: Run, b: Run) -> LossComparison:
    """Compare two runs from where the later one begins to where the shorter one ends.

    In between, a clock that only one of them has is a difference.
    """
    begin, end = max(a.begin_tokens, b.begin_tokens), min(a.steps[-1].tokens, b.steps[-1].tokens)
    steps_a, steps_b = ([step for step in run.steps if begin < step.tokens <= end] for run in (a, b))
    validated = sorted(clock for clock in a.validation.keys() & b.validation.keys() if clock >= begin)
    losses_a: dict[int, Any] = {step.tokens: step.loss for step in steps_a}
    losses_b: dict[int, Any] = {step.tokens: step.loss for step in steps_b}
    common = [clock for clock in losses_a if clock in losses_b]
    finite = [clock for clock in common if losses_a[clock] is not None and losses_b[clock] is not None]
    gaps = {clock: abs(losses_a[clock] - losses_b[clock]) for clock in finite}
    widest = max(gaps, default=None, key=lambda clock: gaps[clock])
    last = validated[-1] if validated else None
    return LossComparison(
        from_tokens=begin,
        to_tokens=end,
        common_steps=len(common),
        losses=_agreement(_said(losses_a), _said(losses_b)),
        blocks=_agreement(
            {step.tokens: step.blocks for step in steps_a}, {step.tokens: step.blocks for step in steps_b}
        ),
        validation=_agreement(*({clock: run.validation[clock] for clock in validated} for run in (a, b))),
        largest_difference=None if widest is None else gaps[widest],
        largest_difference_at_tokens=widest,
        common_validation=None if last is None else (last, a.validation[last], b.validation[last]),
        a=_reached(a),
        b=_reached(b),
    )


def _said(losses: Mapping[int, float | None]) -> dict[int, float | str]:
    return {clock: "not finite" if loss is None else loss for clock, loss in losses.items()}


def _agreement(a: Mapping[int, float | str], b: Mapping[int, float | str]) -> Agreement:
    """Walk the clocks of two runs' values; one that only one of them has is a difference."""
    until = steps = 0
    for clock in sorted({*a, *b}):
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
