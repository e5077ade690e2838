"""How long a recipe trains on a domain of a given size, and with which batches.

A recipe's tokens are the most it trains. Text that is repeated more often than about four times is worth less and less
[arXiv 2305.16264], so a smaller domain trains for fewer tokens, its phases in the recipe's proportions; and for batches
small enough that the run still has some steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from padless.config.schema import PhaseConfig

LEAST_STEPS = 500  # ours: fewer updates do not use what there is
EVALUATIONS = 10  # of a phase: forgetting is a curve
SAVES = 4  # of a phase
LEAST_EVAL_BLOCKS, MOST_EVAL_BLOCKS = 64, 2048
_FORWARDS_A_STEP = 3  # a step costs about three forward passes: validation takes no more time than training


@dataclass(frozen=True)
class DomainSize:
    """How much training text a domain has.

    Attributes:
        tokens: of documents, with their specials.
        fill: share of the blocks that is text; the clock counts whole blocks.
    """

    tokens: int
    fill: float

    @property
    def clock_tokens(self) -> float:
        """Tokens on a run's clock that see all of it once."""
        return self.tokens / self.fill


@dataclass(frozen=True)
class Sizing:
    """What of a recipe is changed for the size of a domain."""

    total_tokens: int
    steps: int
    overrides: tuple[str, ...]
    line: str


def size_run(
    phases: Mapping[str, PhaseConfig],
    domain: DomainSize,
    domain_share: float,
    passes: float,
    block_tokens: int,
    cut_blocks: int,
) -> Sizing:
    """Return the settings that fit a recipe's phases to a domain.

    Args:
        phases: the recipe's, in order.
        domain: training text.
        domain_share: share of the blocks that are the domain's, the rest is replay.
        passes: most times that the domain is seen.
        block_tokens: tokens of a block.
        cut_blocks: ranks x microbatch: every batch is a multiple.
    """
    wanted = sum(phase.tokens for phase in phases.values())
    total = min(wanted, int(domain.clock_tokens * passes / domain_share))
    scale = total / wanted
    eval_blocks = _FORWARDS_A_STEP * total // (block_tokens * EVALUATIONS * len(phases))
    eval_blocks = min(MOST_EVAL_BLOCKS, max(LEAST_EVAL_BLOCKS, eval_blocks))
    overrides = ["data.num_canonical_nodes=1", f"eval.max_blocks={eval_blocks}"]
    shown, steps, trained = [], 0, 0
    for name, phase in phases.items():
        most = total // (LEAST_STEPS * block_tokens)
        blocks = max(1, min(phase.batch.blocks, most) // cut_blocks) * cut_blocks
        batch_tokens = blocks * block_tokens
        tokens = max(batch_tokens, round(phase.tokens * scale))
        steps, trained = steps + -(-tokens // batch_tokens), trained + tokens
        path = f"phases.{name}"
        overrides += [
            f"{path}.tokens={tokens}",
            f"{path}.batch.blocks={blocks}",
            f"{path}.batch.quantum_blocks={blocks}",
            f"{path}.lr.warmup_tokens={min(tokens - 1, round(phase.lr.warmup_tokens * scale))}",
            f"{path}.eval_every_tokens={max(batch_tokens, tokens // EVALUATIONS)}",
            f"{path}.save_every_tokens={max(batch_tokens, tokens // SAVES)}",
        ]
        shown.append(f"{name} {tokens:_} in batches of {batch_tokens:_}")
    seen = trained * domain_share / max(1.0, domain.clock_tokens)
    line = f"{domain.tokens:_} domain tokens, seen {seen:.2g} times: {'; '.join(shown)} (the recipe has {wanted:_})"
    return Sizing(total, steps, tuple(overrides), line)
