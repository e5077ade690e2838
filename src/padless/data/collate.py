"""Masked blocks to one :class:`PackedBatch`: concatenation, filler, borders.

Every block takes exactly ``block_tokens`` tokens in the batch. What its segments leave free is filled with [PAD] in
segments of their own, each within the cap, so that every row belongs to a segment (kernels leave rows behind the last
border unwritten) and nobody attends to filler. No loss falls on it and it is not counted as real tokens.

Where shapes should not change from batch to batch (GPUs: no new allocation, no new compilation), the masked positions
are filled up to a number of rows that is fixed by T and the mask rate; the loss ignores the rows that fill up.

Legend: T packed tokens, S segments, M masked positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from padless.data.batch import IGNORED, PackedBatch

_ROWS_GRID = 256  # rows of masked positions come in multiples of this: whole tiles of a matrix product
_ROWS_DEVIATIONS = 6  # one microbatch in a billion has more masked positions than the fixed number of rows


@dataclass(frozen=True)
class Block:
    """One MDS sample: whole segments, no filler."""

    stream: str
    index: int  # within its stream and split
    tokens_T: NDArray[np.integer]
    lengths_S: NDArray[np.int32]


@dataclass(frozen=True)
class MaskedBlock:
    """A block with its mask applied."""

    block: Block
    input_ids_T: NDArray[np.int64]
    positions_M: NDArray[np.int64]


def filler_lengths(free_tokens: int, max_seq_len: int) -> list[int]:
    """Return the lengths of the filler segments that take up ``free_tokens``, none longer than ``max_seq_len``."""
    full, rest = divmod(free_tokens, max_seq_len)
    return [max_seq_len] * full + ([rest] if rest else [])


def masked_rows(num_tokens: int, mask_rate: float) -> int:
    """Return the fixed number of rows that nearly every microbatch's masked positions fit into.

    Each token is masked by itself (:mod:`padless.data.masking`), so their number is binomial at most.

    Args:
        num_tokens: T of the microbatch.
        mask_rate: share of the tokens on which loss falls.

    Returns:
        The least multiple of 256 that is no less than the expected number and 6 standard deviations.
    """
    expected = num_tokens * mask_rate
    rows = expected + _ROWS_DEVIATIONS * math.sqrt(expected * (1 - mask_rate))
    return _on_grid(min(math.ceil(rows), num_tokens))


def _on_grid(rows: int) -> int:
    return -(-rows // _ROWS_GRID) * _ROWS_GRID


def collate(
    blocks: Sequence[MaskedBlock], block_tokens: int, max_seq_len: int, pad_id: int, pad_masked_to: int | None = None
) -> PackedBatch:
    """Return the microbatch of ``blocks``, in their order.

    Args:
        blocks: at least one masked block.
        block_tokens: tokens a block takes in the batch; T = len(blocks) x block_tokens.
        max_seq_len: cap on a filler segment.
        pad_id: id that filler is made of.
        pad_masked_to: rows that masked positions and labels are filled up to (:func:`masked_rows`), or to the next
            multiple of 256 where there are more; None adds no row.
    """
    num_tokens = len(blocks) * block_tokens
    input_ids_T = np.full(num_tokens, pad_id, dtype=np.int64)
    lengths: list[int] = []
    positions, labels = [], []
    for place, masked in enumerate(blocks):
        start, real = place * block_tokens, masked.input_ids_T.shape[0]
        input_ids_T[start : start + real] = masked.input_ids_T
        lengths += [*masked.block.lengths_S.tolist(), *filler_lengths(block_tokens - real, max_seq_len)]
        positions.append(masked.positions_M + start)
        labels.append(masked.block.tokens_T[masked.positions_M].astype(np.int64))
    cu_seqlens_S1 = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens_S1[1:])
    num_masked = sum(positions_M.shape[0] for positions_M in positions)
    rows = num_masked if pad_masked_to is None else max(pad_masked_to, _on_grid(num_masked))
    return PackedBatch(
        input_ids_T=torch.from_numpy(input_ids_T),
        cu_seqlens_S1=torch.from_numpy(cu_seqlens_S1),
        masked_positions_M=torch.from_numpy(_filled_up(positions, rows, 0)),
        labels_M=torch.from_numpy(_filled_up(labels, rows, IGNORED)),
        segment_lengths=tuple(lengths),
        max_seqlen=max(lengths),
        num_real_tokens=sum(masked.input_ids_T.shape[0] for masked in blocks),
        num_masked=num_masked,
    )


def _filled_up(pieces: Sequence[NDArray[np.int64]], rows: int, value: int) -> NDArray[np.int64]:
    joined = np.full(rows, value, dtype=np.int64)
    np.concatenate(pieces, out=joined[: sum(piece.shape[0] for piece in pieces)])
    return joined
