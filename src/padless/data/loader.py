"""The loader a trainer iterates: one item is one optimizer step of this rank, as a list of microbatches.

    microbatches of blocks (mds.BlockReader, position = blocks consumed)
       | leave_out: not the blocks that a rewind took out of the data
       | begin_step(step, microbatches, mask rate) says what the next step is    set by a callback from the clock
    blocks of the step -> occurrence of each in the global step -> masks -> collate
       | list[PackedBatch]

Position, masks and batch size are functions of the clock; the loader has no state worth saving. The ranks' exchange of
block ids also carries a wish to stop, so that all ranks learn of a signal in the same step.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from padless.data.batch import PackedBatch
from padless.data.collate import Block, MaskedBlock, collate, masked_rows
from padless.data.masking import MaskingRule, mask_tokens, training_generator
from padless.schedule.skipped import SkippedRange

BlockId = tuple[str, int]
RankShare = tuple[list[BlockId], int, str | None]  # blocks of one rank in one step, their real tokens, a wish to stop


def gather_alone(share: RankShare) -> list[RankShare]:
    """The exchange of a single rank: only its own share."""
    return [share]


@dataclass(frozen=True)
class BatchRules:
    """What does not change within a phase."""

    block_tokens: int
    max_seq_len: int
    pad_id: int
    masking: MaskingRule
    seed: int
    phase_index: int
    pads_masked_rows: bool = False  # to a number that depends on tokens and rate alone: shapes stay fixed on a GPU


@dataclass
class StepInfo:
    """What the last assembled step was made of, over all ranks."""

    step: int = -1
    block_ids: list[BlockId] = field(default_factory=list)
    real_tokens: int = 0
    stop: str | None = None  # the signal that asked a rank to stop before this step was assembled
    own_blocks: list[list[Block]] = field(default_factory=list)  # this rank's microbatches
    own_batches: list[PackedBatch] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Return a hash of the step's blocks that does not depend on their order, and so not on the ranks."""
        return hashlib.sha256(repr(sorted(self.block_ids)).encode()).hexdigest()[:16]


def leave_out(
    microbatches: Iterator[list[Block]], position_blocks: int, cut_blocks: int, ranges: Sequence[SkippedRange]
) -> Iterator[list[Block]]:
    """Yield the microbatches without those whose blocks are left out.

    Args:
        microbatches: one rank's, from ``position_blocks`` on.
        position_blocks: position in the data of the first, all ranks together.
        cut_blocks: blocks that all ranks take at once, ranks x microbatch_blocks; divides the ends of every range.
        ranges: what is left out of this order.
    """
    for microbatch in microbatches:
        if not any(each.first_block <= position_blocks < each.end_block for each in ranges):
            yield microbatch
        position_blocks += cut_blocks


class StepLoader:
    """Iterable over optimizer steps. ``begin_step`` has to be called before each ``next``.

    Args:
        microbatches: endless microbatches of this rank's blocks.
        rules: how blocks become batches.
        rank: this rank.
        gather: gives the shares of all ranks, in rank order, for this rank's share.
        wish_to_stop: the name of a signal that this rank got, or None.
    """

    def __init__(
        self,
        microbatches: Iterator[list[Block]],
        rules: BatchRules,
        rank: int = 0,
        gather: Callable[[RankShare], list[RankShare]] = gather_alone,
        wish_to_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._microbatches = microbatches
        self._rules = rules
        self._rank = rank
        self._gather = gather
        self._wish_to_stop = wish_to_stop
        self._next: tuple[int, int, float] | None = None
        self.last_step = StepInfo()

    def begin_step(self, step: int, num_microbatches: int, mask_rate: float) -> None:
        """Say what the next item is: the step's number, its microbatches on this rank, its mask rate."""
        self._next = (step, num_microbatches, mask_rate)

    def close(self) -> None:
        """End the reader and its processes."""
        if isinstance(self._microbatches, Generator):
            self._microbatches.close()

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        while True:
            if self._next is None:
                raise RuntimeError("begin_step was not called before the next step was asked for")
            step, num_microbatches, mask_rate = self._next
            self._next = None
            cut = [next(self._microbatches) for _ in range(num_microbatches)]
            yield self._assemble(cut, step, mask_rate)

    def _assemble(self, cut: list[list[Block]], step: int, mask_rate: float) -> list[PackedBatch]:
        ids = [(block.stream, block.index) for blocks in cut for block in blocks]
        real_tokens = sum(block.tokens_T.shape[0] for blocks in cut for block in blocks)
        shares = self._gather((ids, real_tokens, self._wish_to_stop()))
        seen = Counter(block_id for rank_ids, _, _ in shares[: self._rank] for block_id in rank_ids)
        batches = [self._batch(blocks, step, mask_rate, seen) for blocks in cut]
        self.last_step = StepInfo(
            step,
            [block_id for rank_ids, _, _ in shares for block_id in rank_ids],
            sum(real for _, real, _ in shares),
            next((stop for _, _, stop in shares if stop is not None), None),
            cut,
            batches,
        )
        return batches

    def _batch(self, blocks: Sequence[Block], step: int, mask_rate: float, seen: Counter[BlockId]) -> PackedBatch:
        rules = self._rules
        masked = []
        for block in blocks:
            block_id = (block.stream, block.index)
            generator = training_generator(rules.seed, rules.phase_index, step, *block_id, seen[block_id])
            seen[block_id] += 1
            masked.append(MaskedBlock(block, *mask_tokens(block.tokens_T, mask_rate, rules.masking, generator)))
        rows = masked_rows(len(blocks) * rules.block_tokens, mask_rate) if rules.pads_masked_rows else None
        return collate(masked, rules.block_tokens, rules.max_seq_len, rules.pad_id, rows)
