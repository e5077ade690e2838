"""Where each phase of a run begins and ends on its clock, in exact tokens.

Ends are absolute: phase k ends at the first step whose clock reaches the sum of the tokens of phases 0 to k. It then
has gone over by less than one of its batches, and the next phase begins there; so borders never drift, and where a
phase begins is a closed-form function of the config.

    nominal    |------- phase 0 -------|--- phase 1 ---|
    steps      |---|---|---|---|---|-----|--|--|--|--|--|
                                       ^ ^
                             end_tokens   start_tokens of phase 1 = actual_end_tokens of phase 0
"""

from dataclasses import dataclass

from padless.config.schema import Config, PhaseConfig
from padless.schedule.batch_warmup import Levels, batch_levels, blocks_used_by_step, step_at_blocks, steps_to_cover


@dataclass(frozen=True)
class PhasePlan:
    """One phase on the run's clock. Tokens are nominal and count all ranks together.

    Attributes:
        name: key in ``phases``.
        index: position in ``phase_order``.
        phase: the phase's config.
        levels: its batch sizes, see :mod:`padless.schedule.batch_warmup`.
        block_tokens: tokens of a block.
        start_tokens: clock at which its first step begins, the previous phase's overshoot included.
        end_tokens: clock that its last step reaches or passes (nominal, cumulative).
        steps_in_phase: optimizer steps it takes, at least 1 in a checked config.
        first_step: optimizer steps of the run before it.
    """

    name: str
    index: int
    phase: PhaseConfig
    levels: Levels
    block_tokens: int
    start_tokens: int
    end_tokens: int
    steps_in_phase: int
    first_step: int

    @property
    def actual_end_tokens(self) -> int:
        """Clock after its last step: ``end_tokens``, or less than one batch above."""
        return self.start_tokens + blocks_used_by_step(self.levels, self.steps_in_phase) * self.block_tokens

    def tokens_in_phase(self, clock_tokens: int) -> int:
        """Return the tokens since the phase began."""
        return clock_tokens - self.start_tokens

    def clock_at_step(self, step_in_phase: int) -> int:
        """Return the clock when ``step_in_phase`` steps of this phase are done."""
        return self.start_tokens + blocks_used_by_step(self.levels, step_in_phase) * self.block_tokens

    def step_at_clock(self, clock_tokens: int) -> int:
        """Return how many whole steps of this phase are done at a clock: the inverse of :meth:`clock_at_step`."""
        return step_at_blocks(self.levels, self.tokens_in_phase(clock_tokens) // self.block_tokens)


def plan_phases(config: Config) -> tuple[PhasePlan, ...]:
    """Return the phases of a run in order, with their borders.

    Raises:
        ConfigError: a batch size is not a multiple of its quantum.
    """
    plans: list[PhasePlan] = []
    start_tokens = end_tokens = first_step = 0
    block_tokens = config.data.block_tokens
    for index, name in enumerate(config.phase_order):
        phase = config.phases[name]
        end_tokens += phase.tokens
        levels = batch_levels(phase.batch, block_tokens)
        blocks = max(0, -((start_tokens - end_tokens) // block_tokens))
        steps = steps_to_cover(levels, blocks)
        plan = PhasePlan(name, index, phase, levels, block_tokens, start_tokens, end_tokens, steps, first_step)
        plans.append(plan)
        start_tokens = plan.actual_end_tokens
        first_step += steps
    return tuple(plans)


def phase_at(plans: tuple[PhasePlan, ...], clock_tokens: int) -> PhasePlan:
    """Return the phase of the step that begins at ``clock_tokens``; at or after the end of the run, the last phase."""
    for plan in plans:
        if clock_tokens < plan.end_tokens:
            return plan
    return plans[-1]
