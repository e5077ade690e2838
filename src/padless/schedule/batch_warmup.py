"""Batch-size warmup: which batch a step has, and how many blocks all steps before it used. Exact integers.

A phase's batch sizes are levels, each a (first block in the phase, blocks per step); a level's length is a whole number
of its own steps, so steps never straddle a border and everything below has a closed form. Counts are blocks of all
ranks together since the phase began.
"""

from itertools import pairwise

from padless.config.batch_sizes import batch_sizes, level_steps
from padless.config.schema import BatchConfig

Levels = tuple[tuple[int, int], ...]


def batch_levels(batch: BatchConfig, block_tokens: int) -> Levels:
    """Return the phase's levels as (start block in the phase, blocks per step); the last one never ends.

    How long a level lasts is :func:`padless.config.batch_sizes.level_steps`.

    Args:
        batch: the phase's batch setting.
        block_tokens: tokens of a block.

    Raises:
        ConfigError: a size is not a multiple of the quantum and ``round=exact``.
    """
    sizes = batch_sizes(batch)
    levels, start_block = [], 0
    for size, count in zip(sizes, level_steps(batch, block_tokens), strict=False):  # the full batch has no end
        levels.append((start_block, size))
        start_block += size * count
    return (*levels, (start_block, sizes[-1]))


def batch_blocks_at(levels: Levels, blocks_in_phase: int) -> int:
    """Return the batch, in blocks, of the step that begins when the phase has used ``blocks_in_phase`` blocks."""
    return [size for start, size in levels if start <= blocks_in_phase][-1]


def blocks_used_by_step(levels: Levels, step: int) -> int:
    """Return the blocks that the first ``step`` steps of the phase use together."""
    for (start, size), (end, _) in pairwise(levels):
        steps_of_level = (end - start) // size
        if step <= steps_of_level:
            return start + step * size
        step -= steps_of_level
    start, size = levels[-1]
    return start + step * size


def step_at_blocks(levels: Levels, blocks_in_phase: int) -> int:
    """Return how many whole steps ``blocks_in_phase`` blocks make: the inverse of :func:`blocks_used_by_step`."""
    step = 0
    for (start, size), (end, _) in pairwise(levels):
        if blocks_in_phase < end:
            return step + (blocks_in_phase - start) // size
        step += (end - start) // size
    start, size = levels[-1]
    return step + (blocks_in_phase - start) // size


def steps_to_cover(levels: Levels, blocks: int) -> int:
    """Return the fewest steps that use at least ``blocks`` blocks."""
    step = step_at_blocks(levels, blocks)
    return step if blocks_used_by_step(levels, step) == blocks else step + 1
