"""When the named events of a run happen, on its clock, from the config alone: where a kill can be planned.

An occurrence with a clock above that of the checkpoint a start resumes from happens in that start; so the number of the
occurrence within the start, which a kill has to name, is a count (:meth:`Moments.number_in_start`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from padless.config.schema import Config
from padless.schedule.phases import PhasePlan, plan_phases

LEADER_EVENTS = ("save_inside", "save_before_sidecar", "save_after", "retention", "export")  # on rank 0 alone
_SAVE_EVENTS = ("save_inside", "save_before_sidecar", "save_after")


@dataclass(frozen=True)
class Moments:
    """Clocks of each event in a run that nobody interrupts.

    Attributes:
        clocks: event -> ascending clocks, in tokens.
        ramp_end_tokens: clock at which the first phase's batch is full.
        end_tokens: clock of the last step.
        evaluation_blocks: blocks that all ranks together compute in one evaluation.
    """

    clocks: Mapping[str, tuple[int, ...]]
    ramp_end_tokens: int
    end_tokens: int
    evaluation_blocks: int

    def number_in_start(self, event: str, clock_tokens: int, resumed_tokens: int, rank: int, processes: int) -> int:
        """Return which occurrence of ``event``, counted within a start, is the first at or after ``clock_tokens``.

        Args:
            event: of :data:`padless.events.EVENTS`.
            clock_tokens: the wish.
            resumed_tokens: clock of the checkpoint the start resumes from; 0 for none.
            rank: that counts.
            processes: ranks of the run.
        """
        if event in ("retention", "export"):  # how much is deleted depends on what is on disk; there is one export
            return 1
        earlier = sum(resumed_tokens < clock < clock_tokens for clock in self.clocks[event])
        if event != "evaluation":
            return earlier + 1
        from_nothing = int(resumed_tokens == 0 < clock_tokens)  # untrained weights are evaluated, too
        return (earlier + from_nothing) * len(range(rank, self.evaluation_blocks, processes)) + 1


def moments_of(config: Config, pass_blocks: Mapping[str, int], evaluation_blocks: int) -> Moments:
    """Return when the events of a run happen.

    Args:
        config: the run's.
        pass_blocks: blocks of one pass over the data, by phase.
        evaluation_blocks: blocks of one evaluation.
    """
    plans = plan_phases(config)
    clocks: dict[str, list[int]] = {}
    for plan in plans:
        phase, steps = plan.phase, [plan.clock_at_step(step) for step in range(plan.steps_in_phase + 1)]
        saves = _due(steps, phase.save_every_tokens)
        clocks.setdefault("step", []).extend(steps[1:])
        clocks.setdefault("evaluation", []).extend(_due(steps, phase.eval_every_tokens))
        for event in _SAVE_EVENTS:
            clocks.setdefault(event, []).extend(saves)
        clocks.setdefault("retention", []).extend(saves[config.run.keep_newest_checkpoints or len(saves) :])
        clocks.setdefault("pass_border", []).extend(_borders(plan, pass_blocks[plan.name]))
    clocks["handover"] = [plan.actual_end_tokens for plan in plans[:-1]]
    clocks["export"] = [plans[-1].actual_end_tokens]
    levels = plans[0].levels
    ramp_end = plans[0].start_tokens + levels[-1][0] * plans[0].block_tokens
    ordered = {event: tuple(sorted(each)) for event, each in clocks.items()}
    return Moments(ordered, ramp_end, plans[-1].actual_end_tokens, evaluation_blocks)


def _due(step_clocks: list[int], interval_tokens: int) -> list[int]:
    """Return the clocks of steps that cross an interval of their phase, or end it."""
    start, end = step_clocks[0], step_clocks[-1]
    return [
        now
        for before, now in pairwise(step_clocks)
        if now == end or (before - start) // interval_tokens != (now - start) // interval_tokens
    ]


def _borders(plan: PhasePlan, pass_blocks: int) -> list[int]:
    """Return the clocks before the blocks that begin a new pass within a phase."""
    blocks = plan.tokens_in_phase(plan.actual_end_tokens) // plan.block_tokens
    return [plan.start_tokens + begin * plan.block_tokens for begin in range(pass_blocks, blocks, pass_blocks)]
