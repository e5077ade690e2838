"""What the callbacks of one phase tell each other about the current step."""

from dataclasses import dataclass, field

from composer.core import State

from padless.schedule.phases import PhasePlan
from padless.schedule.step import StepSettings
from padless.train.loss_scale import LossScale


@dataclass
class StepRecord:
    """Settings and measurements of the step under way."""

    plan: PhasePlan
    settings: StepSettings | None = None
    loss: float = float("nan")  # nats, mean over the masked tokens of the global batch
    grad_norm: float = float("nan")  # of the averaged gradients, without the loss scale
    stream_losses: dict[str, float] = field(default_factory=dict)  # nats, by data stream; empty where there is but one
    loss_scale: LossScale | None = None  # of the next backward pass; None where there is no scaling
    data_wait_s: float = 0.0
    eval_loss: float | None = None
    problem: str | None = None  # what the guard found wrong with the step
    recent_losses: list[float] = field(default_factory=list)  # of the phase's last good steps, oldest first


def clock_tokens(state: State) -> int:
    """Return the run's clock: nominal tokens consumed, all ranks together, filler included."""
    return int(state.timestamp.token)


def step_number(state: State) -> int:
    """Return the optimizer steps done since the run began, over all phases."""
    return int(state.timestamp.batch)


def previous_clock_tokens(state: State) -> int:
    """Return the clock before the step that has just ended."""
    return int(state.previous_timestamp.token) if state.previous_timestamp is not None else 0


def crossed(interval_tokens: int, before_tokens: int, now_tokens: int) -> bool:
    """Return whether a multiple of the interval lies in (before, now]."""
    return before_tokens // interval_tokens != now_tokens // interval_tokens


def is_due(record: StepRecord, state: State, interval_tokens: int, end_tokens: int) -> bool:
    """Return whether the step that has just ended crossed an interval of its phase, or ended the fitting."""
    start, now = record.plan.start_tokens, clock_tokens(state)
    before = max(previous_clock_tokens(state), start)
    return now >= end_tokens or crossed(interval_tokens, before - start, now - start)
