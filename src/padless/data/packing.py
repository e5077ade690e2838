"""Cutting documents into segments and filling blocks with whole segments. Pure numpy, no randomness, no I/O.

    document of n content tokens
       | chunk_lengths                  cut at max_seq_len - 2; never truncated
    segments: [CLS] + content + [SEP]   lengths_N
       | pack                           best fit, longest first; whole segments only
    blocks of at most block_tokens      Packing: which segments, in which order

Best fit by decreasing length (Johnson 1974) works here on counts instead of single segments: all segments of one length
go at once into all blocks with the same free space. The cost is that of a sort plus one small step for each pair of
lengths that meet, so millions of segments take seconds. What it decides is a function of the lengths alone; the order
of blocks, and of segments in a block, is then mixed by a fixed hash, because longest-first order would be a curriculum.

Legend: N segments, B blocks, B1 = B + 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padless.errors import DataError

SPECIALS_PER_SEGMENT = 2  # [CLS] and [SEP]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Segments by block: block b holds ``order_N[offsets_B1[b] : offsets_B1[b + 1]]``, in this order."""

    order_N: IntArray  # indices into the lengths that were packed, each exactly once
    offsets_B1: IntArray

    @property
    def num_blocks(self) -> int:
        """Return B."""
        return len(self.offsets_B1) - 1

    def block(self, index: int) -> IntArray:
        """Return the segment indices of one block."""
        return self.order_N[self.offsets_B1[index] : self.offsets_B1[index + 1]]

    def blocks(self) -> Iterator[IntArray]:
        """Yield the segment indices of every block, in block order."""
        for index in range(self.num_blocks):
            yield self.block(index)


def chunk_lengths(content_tokens: int, max_seq_len: int) -> list[int]:
    """Return the content tokens of each segment of a document, in order; they add up to ``content_tokens``.

    All chunks are full but the last. A last chunk under an eighth of the cap takes as much from the one before it as it
    needs to reach an eighth, so that no segment is a scrap without context. Chunks of equal length would be more even,
    but leave nothing to fill up blocks with that hold one full segment: 98.8 % against 99.95 % on 2,000 documents of
    2,000 to 40,000 tokens, cap and block 512.

    Args:
        content_tokens: tokens of the document without specials; 0 gives no segment.
        max_seq_len: cap on a segment, specials included.

    Raises:
        DataError: ``max_seq_len`` leaves no room for content.
    """
    cap = max_seq_len - SPECIALS_PER_SEGMENT
    if cap < 1:
        raise DataError(
            f"max_seq_len={max_seq_len} leaves no room for content beside [CLS] and [SEP]",
            "use a max_seq_len of at least 3 tokens",
        )
    full, rest = divmod(content_tokens, cap)
    chunks = [cap] * full + ([rest] if rest else [])
    least = cap // 8
    if full and 0 < rest < least:
        chunks[-2:] = [cap + rest - least, least]
    return chunks


def pack(lengths_N: NDArray[np.integer[Any]], block_tokens: int) -> Packing:
    """Assign every segment to one block such that no block is over ``block_tokens``; the same input, the same result.

    Args:
        lengths_N: tokens of each segment, specials included; each from 1 to ``block_tokens``.
        block_tokens: tokens a block can hold.

    Raises:
        DataError: a segment is empty or longer than a block.
    """
    lengths = np.ascontiguousarray(lengths_N, dtype=np.int64)
    if lengths.size == 0:
        return Packing(np.empty(0, np.int64), np.zeros(1, np.int64))
    if lengths.min() < 1 or lengths.max() > block_tokens:
        raise DataError(
            f"segment lengths go from {lengths.min()} to {lengths.max()} tokens, block_tokens={block_tokens}",
            "give segments of at least 1 and at most block_tokens tokens; raise block_tokens or lower max_seq_len",
        )
    mixed_N = _mix(np.arange(lengths.size, dtype=np.uint64))
    # Longest first; equal lengths in mixed order, so that the full chunks of one long document do not share a block.
    descending_N = np.lexsort((mixed_N, -lengths)).astype(np.int64)
    block_N = np.empty(lengths.size, np.int64)
    num_blocks = _best_fit(lengths[descending_N], block_tokens, block_N)
    rank_B = np.empty(num_blocks, np.int64)
    rank_B[np.argsort(_mix(np.arange(num_blocks, dtype=np.uint64) + np.uint64(lengths.size)), kind="stable")] = (
        np.arange(num_blocks)
    )
    place_N = np.empty(lengths.size, np.int64)
    place_N[descending_N] = rank_B[block_N]
    order_N = np.lexsort((mixed_N, place_N)).astype(np.int64)
    offsets_B1 = np.zeros(num_blocks + 1, np.int64)
    np.cumsum(np.bincount(place_N, minlength=num_blocks), out=offsets_B1[1:])
    return Packing(order_N, offsets_B1)


def _best_fit(lengths_N: IntArray, block_tokens: int, block_N: IntArray) -> int:
    """Write the block of each segment (given longest first) to ``block_N`` and return the number of blocks.

    For one length, the fullest block that still has room takes segments until it has none left; then the next fullest.
    So blocks with the same free space all take the same number, and move to a smaller free space together.
    """
    waiting: dict[int, list[IntArray]] = {}  # free tokens -> blocks
    has_blocks = np.zeros(block_tokens + 1, np.bool_)
    num_blocks = 0
    starts = np.flatnonzero(np.diff(lengths_N, prepend=-1))
    for start, end in zip(starts, [*starts[1:], lengths_N.size], strict=True):
        length = int(lengths_N[start])
        next_segment = int(start)
        for free in (np.flatnonzero(has_blocks[length:]) + length).tolist():
            blocks = _take(waiting, has_blocks, free)
            used = _fill(block_N[next_segment:end], blocks, free, length, waiting, has_blocks)
            next_segment += used
            if next_segment == end:
                break
        if next_segment < end:
            new = -(-(int(end) - next_segment) // (block_tokens // length))
            blocks = np.arange(num_blocks, num_blocks + new)
            num_blocks += new
            _fill(block_N[next_segment:end], blocks, block_tokens, length, waiting, has_blocks)
    return num_blocks


def _take(waiting: dict[int, list[IntArray]], has_blocks: NDArray[np.bool_], free: int) -> IntArray:
    has_blocks[free] = False
    parts = waiting.pop(free)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _put(waiting: dict[int, list[IntArray]], has_blocks: NDArray[np.bool_], free: int, blocks: IntArray) -> None:
    if free > 0 and blocks.size:
        waiting.setdefault(free, []).append(blocks)
        has_blocks[free] = True


def _fill(
    block_N: IntArray,
    blocks: IntArray,
    free: int,
    length: int,
    waiting: dict[int, list[IntArray]],
    has_blocks: NDArray[np.bool_],
) -> int:
    """Put segments of one length into blocks with the same free space; return how many found room."""
    each = free // length
    used = min(block_N.size, each * blocks.size)
    full_blocks, last = divmod(used, each)
    block_N[: full_blocks * each] = np.repeat(blocks[:full_blocks], each)
    _put(waiting, has_blocks, free - each * length, blocks[:full_blocks])
    if last:
        block_N[full_blocks * each : used] = blocks[full_blocks]
        _put(waiting, has_blocks, free - last * length, blocks[full_blocks : full_blocks + 1])
        full_blocks += 1
    _put(waiting, has_blocks, free, blocks[full_blocks:])
    return used


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a fixed one-to-one scramble of 64-bit values (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
