"""How far the learning rate of weights has come down: what continuing from them costs or gains depends on it."""

from padless.config.schema import Config
from padless.schedule.lr import lr_at
from padless.schedule.phases import plan_phases

ANNEALED_BELOW = 0.5  # of the phase's peak; a published context phase ends at exactly half [Ettin, arXiv 2507.11412]


def lr_share_at(config: Config, phase_name: str, clock_tokens: int) -> float:
    """Return the learning rate at a clock as a share of its phase's peak; 1 before a decay, a warmup included.

    Args:
        config: the run's.
        phase_name: phase the weights were saved in; not always the one that begins at this clock.
        clock_tokens: nominal tokens consumed.
    """
    plan = next(plan for plan in plan_phases(config) if plan.name == phase_name)
    tokens = max(plan.tokens_in_phase(clock_tokens), plan.phase.lr.warmup_tokens)
    return lr_at(plan.phase.lr, plan.phase.tokens, tokens) / plan.phase.lr.peak
