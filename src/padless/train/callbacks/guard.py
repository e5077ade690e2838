"""Look at every step before the optimizer uses it: loss and gradients that are not finite, and loss spikes.

The decision is the same on all ranks: gradients have been averaged, the loss is summed over the ranks, and the window
of earlier losses is part of every checkpoint, so a resumed run decides as an uninterrupted one.
"""

import torch
import torch.distributed
from composer.core import Callback, State
from composer.loggers import Logger

from padless.config.schema import GuardConfig
from padless.errors import TrainingError
from padless.events import reached
from padless.schedule.spike import comparable_losses, name_bad_step
from padless.train.bad_step import BadStepReporter, Rewind
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number
from padless.train.composer_model import ComposerMaskedLM
from padless.train.world import World

_BLOCKS_NAMED = 16


class GuardSteps(Callback):
    """Measures each step after all microbatches and ranks; stops, skips or rewinds where it is bad.

    Args:
        record: the step record; gets gradient norm, verdict and window.
        model: adds up the microbatches' losses.
        guard: limits and policies.
        world: the ranks.
        reporter: writes what is known about a bad step.
    """

    def __init__(
        self,
        record: StepRecord,
        model: ComposerMaskedLM,
        guard: GuardConfig,
        world: World,
        reporter: BadStepReporter,
    ) -> None:
        self._record, self._model, self._guard = record, model, guard
        self._world, self._reporter = world, reporter
        self._in_a_row = 0

    def after_train_batch(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Check the step whose gradients are complete."""
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        self._record.grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        loss = self._loss_of_all_ranks()
        window = comparable_losses(self._record.recent_losses, self._record.plan, clock_tokens(state))
        problem = name_bad_step(loss, self._record.grad_norm, window, self._guard)
        self._record.problem = problem
        reached("step")
        if problem is None:
            self._in_a_row = 0
            self._record.recent_losses.append(loss)
            del self._record.recent_losses[: -self._guard.window_steps]
            return
        self._act(problem, "spike" in problem, state)

    def _accept_a_lasting_rise(self, step: int) -> None:
        """After some spikes in a row, measure against the losses from here on: this is no spike but another level."""
        if self._in_a_row >= self._guard.max_in_a_row:
            self._record.recent_losses.clear()
            self._in_a_row = 0
            self._reporter.say(f"  {self._guard.max_in_a_row} in a row: from step {step + 1} on this is the new level")

    def _loss_of_all_ranks(self) -> float:
        loss_sum, tokens = self._model.take_loss_sum()
        sums = torch.stack([loss_sum.double(), torch.tensor(tokens, dtype=torch.float64, device=loss_sum.device)])
        if self._world.size > 1:
            torch.distributed.all_reduce(sums)
        total, count = sums.tolist()
        return total / max(count, 1.0)

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
            for parameter in state.model.parameters():
                parameter.grad = None
            return
        more = f", {self._in_a_row} bad steps in a row" if policy == "skip" else ""
        raise TrainingError(
            f"{problem} at step {step} of phase {phase!r} (clock {clock:_} tokens){more}, blocks "
            f"{self._reporter.name_blocks(_BLOCKS_NAMED)}; report: {report}",
            "the weights of the last checkpoint are whole: start the same command with guard=rewind, which leaves "
            f"these blocks out, or with a lower phases.{phase}.lr.peak=... and "
            f"run.accept_changes=[phases.{phase}.lr.peak]",
        )
