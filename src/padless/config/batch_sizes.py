"""The batch sizes a phase uses, in blocks: the levels of its warmup and the full batch, on the phase's quantum.

Sizes are global and every one is a multiple of ``quantum_blocks``, so that any ranks x microbatch that divides the
quantum can cut every batch. Plain arithmetic; when each size is used is :mod:`padless.schedule.batch_warmup`.
"""

from fractions import Fraction

from padless.config.schema import BatchConfig, BatchWarmupConfig
from padless.errors import ConfigError


def wanted_sizes(batch: BatchConfig) -> tuple[Fraction, ...]:
    """Return the sizes as written, in blocks and in order: ``levels`` evenly spaced warmup sizes, then the full batch.

    Level i of n has ``from_blocks + i * (blocks - from_blocks) / n``; 96 to 576 in 5 levels is
    96, 192, 288, 384, 480, then 576.
    """
    if batch.warmup is None:
        return (Fraction(batch.blocks),)
    first, count = batch.warmup.from_blocks, batch.warmup.levels
    spacing = Fraction(batch.blocks - first, count)
    return (*(first + level * spacing for level in range(count)), Fraction(batch.blocks))


def batch_sizes(batch: BatchConfig) -> tuple[int, ...]:
    """Return the sizes used, in blocks and in order: multiples of the quantum.

    With ``round=nearest`` each wanted size goes to the nearest multiple (a tie goes up), never below one quantum.

    Raises:
        ConfigError: ``round=exact`` and a wanted size is not a multiple of the quantum.
    """
    wanted = wanted_sizes(batch)
    quantum = batch.quantum_blocks
    if batch.round == "nearest":
        return tuple(max(1, int(size / quantum + Fraction(1, 2))) * quantum for size in wanted)
    odd = [size for size in wanted if size % quantum != 0]
    if odd:
        sizes = ", ".join(_readable(size) for size in wanted)
        raise ConfigError(
            f"batch sizes {sizes} blocks: {_readable(odd[0])} is not a multiple of quantum_blocks={quantum}",
            f"{_what_divides(wanted, batch)}, or set batch.round=nearest",
        )
    return tuple(int(size) for size in wanted)


def level_steps(batch: BatchConfig, block_tokens: int) -> tuple[int, ...]:
    """Return how many steps each level of the warmup lasts, at least one; empty without a warmup.

    ``equal=steps`` (the published rule) holds every level for the same number of steps, the whole number that brings
    the ramp's total nearest to ``warmup.tokens``. ``equal=tokens`` gives every level ``warmup.tokens / levels``, to the
    nearest whole step of that level. A tie goes up.

    Args:
        batch: the phase's batch setting.
        block_tokens: tokens of a block.

    Raises:
        ConfigError: as for :func:`batch_sizes`.
    """
    ramp = batch_sizes(batch)[:-1]
    if batch.warmup is None:
        return ()
    tokens = batch.warmup.tokens
    if batch.warmup.equal == "steps":
        return (_nearest(tokens, sum(ramp) * block_tokens),) * len(ramp)
    return tuple(_nearest(tokens, len(ramp) * size * block_tokens) for size in ramp)


def ramp_tokens(batch: BatchConfig, block_tokens: int) -> int:
    """Return the tokens that the warmup really takes, in whole steps; 0 without one.

    Raises:
        ConfigError: as for :func:`batch_sizes`.
    """
    pairs = zip(level_steps(batch, block_tokens), batch_sizes(batch)[:-1], strict=True)
    return block_tokens * sum(steps * size for steps, size in pairs)


def size_deviations(batch: BatchConfig) -> tuple[tuple[str, int], ...]:
    """Return (wanted, used) of each size that ``round=nearest`` changes, in blocks, for people to read."""
    pairs = zip(wanted_sizes(batch), batch_sizes(batch), strict=True)
    return tuple((_readable(wanted), used) for wanted, used in pairs if wanted != used)


def _nearest(tokens: int, tokens_per_step: int) -> int:
    """Return tokens / tokens_per_step to the nearest whole step, ties up, at least 1."""
    return max(1, (2 * tokens + tokens_per_step) // (2 * tokens_per_step))


def _what_divides(wanted: tuple[Fraction, ...], batch: BatchConfig) -> str:
    """Say what would fit: the quantums that divide every size, and numbers of levels that give fitting sizes."""
    hints = []
    if all(size.denominator == 1 for size in wanted):
        quantums = [q for q in range(1, batch.blocks + 1) if all(size % q == 0 for size in wanted)]
        hints.append(f"quantum_blocks that divide all of them: {', '.join(map(str, quantums))}")
    if batch.warmup is not None:
        hints.append(_levels_that_fit(batch, batch.warmup))
    return "; ".join(hints)


def _levels_that_fit(batch: BatchConfig, warmup: BatchWarmupConfig) -> str:
    rise = batch.blocks - warmup.from_blocks
    counts = [n for n in range(1, rise + 1) if rise % n == 0 and (rise // n) % batch.quantum_blocks == 0]
    if not counts:
        return f"choose batch.blocks - warmup.from_blocks (now {rise}) as a multiple of quantum_blocks"
    return f"warmup.levels that fit the quantum: {', '.join(map(str, counts))}"


def _readable(size: Fraction) -> str:
    return str(size.numerator) if size.denominator == 1 else f"{float(size):.4g}"
