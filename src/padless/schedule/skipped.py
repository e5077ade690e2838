"""Blocks of the data that a run leaves out, and where in the data it then stands. Exact integers.

The clock counts blocks that were trained on. The data is a fixed endless order of blocks; a rewind takes the blocks of
a bad step out of it, and everything after them moves up. So the position in the data is the clock plus what has been
left out before it: still a function of the clock and of this list.

    data       0 1 2 3 [4 5] 6 7 8 ...      a range of two blocks is left out
    consumed   0 1 2 3       4 5 6 ...
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class SkippedRange:
    """Whole steps' worth of blocks that are never trained on.

    Attributes:
        phase: the phase in which the data's order began; phases that go on in the same data share it.
        first_block: position of the first block in that order.
        num_blocks: how many; a multiple of the batch quantum, as steps are.
    """

    phase: str
    first_block: int
    num_blocks: int

    @property
    def end_block(self) -> int:
        """Position after the last block."""
        return self.first_block + self.num_blocks


def position_in_data(consumed_blocks: int, ranges: Sequence[SkippedRange]) -> int:
    """Return the position of the block that comes after ``consumed_blocks`` trained ones.

    Args:
        consumed_blocks: blocks trained on since the data's order began.
        ranges: what is left out of this order.
    """
    position = consumed_blocks
    for each in merged(ranges):
        if position < each.first_block:
            break
        position += each.num_blocks
    return position


def positions_of_step(consumed_blocks: int, batch_blocks: int, ranges: Sequence[SkippedRange]) -> list[tuple[int, int]]:
    """Return (first position, blocks) of the stretches that a step of ``batch_blocks`` blocks is made of."""
    position, missing = position_in_data(consumed_blocks, ranges), batch_blocks
    stretches = []
    for each in [*(each for each in merged(ranges) if each.first_block >= position), None]:
        here = missing if each is None else min(missing, each.first_block - position)
        if here > 0:
            stretches.append((position, here))
        missing -= here
        if missing == 0 or each is None:
            break
        position = each.end_block
    return stretches


def merged(ranges: Sequence[SkippedRange]) -> list[SkippedRange]:
    """Return the ranges of one phase's order sorted, overlapping and touching ones made one."""
    result: list[SkippedRange] = []
    for each in sorted(ranges):
        if result and result[-1].phase == each.phase and each.first_block <= result[-1].end_block:
            last = result.pop()
            end = max(last.end_block, each.end_block)
            each = SkippedRange(last.phase, last.first_block, end - last.first_block)
        result.append(each)
    return result
