"""Everything that one optimizer step takes from the clock, in one place."""

from dataclasses import dataclass

from padless.schedule.batch_warmup import batch_blocks_at
from padless.schedule.lr import lr_at
from padless.schedule.masking_rate import mask_rate_at
from padless.schedule.phases import PhasePlan


@dataclass(frozen=True)
class StepSettings:
    """Settings of the step that begins at a clock."""

    lr: float
    weight_decay: float
    batch_blocks: int
    mask_rate: float


def settings_at(plan: PhasePlan, clock_tokens: int) -> StepSettings:
    """Return the settings of the step of phase ``plan`` that begins when ``clock_tokens`` have been consumed."""
    phase = plan.phase
    tokens_in_phase = plan.tokens_in_phase(clock_tokens)
    return StepSettings(
        lr=lr_at(phase.lr, phase.tokens, tokens_in_phase),
        weight_decay=phase.weight_decay,
        batch_blocks=batch_blocks_at(plan.levels, tokens_in_phase // plan.block_tokens),
        mask_rate=mask_rate_at(phase.masking, phase.tokens, tokens_in_phase),
    )
