"""Look at every step before the optimizer uses it: loss and gradients that are not finite, and loss spikes.

The decision is the same on all ranks: gradients have been averaged, the loss is summed over the ranks, and the window
of earlier losses is part of every checkpoint, so a resumed run decides as an uninterrupted one.
"""

import math

from composer.core import Callback, State
from composer.loggers import Logger

from padless.config.schema import GuardConfig
from padless.errors import TrainingError
from padless.events import reached
from padless.schedule.spike import comparable_losses, name_bad_step
from padless.train.bad_step import BadStepReporter, Rewind
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number

_BLOCKS_NAMED = 16


class GuardSteps(Callback):
    """Measures each step after all microbatches and ranks; stops, skips or rewinds where it is bad.

    Args:
        record: the step record, with loss and gradient norm; gets verdict and window, and the loss scale moves on.
        guard: limits and policies.
        reporter: writes what is known about a bad step.
    """

    def __init__(
        self,
        record: StepRecord,
        guard: GuardConfig,
        reporter: BadStepReporter,
    ) -> None:
        self._record, self._guard, self._reporter = record, guard, reporter
        self._in_a_row = 0

    def after_train_batch(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Check the step whose gradients are complete."""
        reached("step")
        if self._has_overflowed():
            _drop_gradients(state)
            return
        loss = self._record.loss
        window = comparable_losses(self._record.recent_losses, self._record.plan, clock_tokens(state))
        problem = name_bad_step(loss, self._record.grad_norm, window, self._guard)
        self._record.problem = problem
        if problem is None:
            self._in_a_row = 0
            if self._record.loss_scale is not None:
                self._record.loss_scale = self._record.loss_scale.after_good_step()
            self._record.recent_losses.append(loss)
            del self._record.recent_losses[: -self._guard.window_steps]
            return
        self._act(problem, "spike" in problem, state)

    def _has_overflowed(self) -> bool:
        """Whether it is the loss scale that made the gradients infinite; it is then halved, and the step left out."""
        scale, record = self._record.loss_scale, self._record
        if scale is None or not scale.can_fall or not math.isfinite(record.loss) or math.isfinite(record.grad_norm):
            return False
        record.loss_scale, record.problem = scale.after_overflow(), None
        return True

    def _accept_a_lasting_rise(self, step: int) -> None:
        """After some spikes in a row, measure against the losses from here on: this is no spike but another level."""
        if self._in_a_row >= self._guard.max_in_a_row:
            self._record.recent_losses.clear()
            self._in_a_row = 0
            self._reporter.say(f"  {self._guard.max_in_a_row} in a row: from step {step + 1} on this is the new level")

    def _act(self, problem: str, is_spike: bool, state: State) -> None:
        policy = self._guard.on_spike if is_spike else self._guard.on_non_finite
        step, clock, phase = step_number(state), clock_tokens(state), self._record.plan.name
        self._in_a_row += 1
        report = self._reporter.write(problem, policy, state, self._record)
        if policy == "report":
            self._accept_a_lasting_rise(step)
            return
        if policy == "rewind":
            raise Rewind(problem, clock, step, report)
        if policy == "skip" and self._in_a_row <= self._guard.max_in_a_row:
            _drop_gradients(state)
            return
        more = f", {self._in_a_row} bad steps in a row" if policy == "skip" else ""
        raise TrainingError(
            f"{problem} at step {step} of phase {phase!r} (clock {clock:_} tokens){more}, blocks "
            f"{self._reporter.name_blocks(_BLOCKS_NAMED)}; report: {report}",
            "the weights of the last checkpoint are whole: start the same command with guard=rewind, which leaves "
            f"these blocks out, or with a lower phases.{phase}.lr.peak=... and "
            f"run.accept_changes=[phases.{phase}.lr.peak]",
        )


def _drop_gradients(state: State) -> None:
    """Leave the optimizer nothing to step with."""
    for parameter in state.model.parameters():
        parameter.grad = None
