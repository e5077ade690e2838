"""Masked blocks to one :class:`PackedBatch`: concatenation, filler, borders.

Every block takes exactly ``block_tokens`` tokens in the batch. What its segments leave free is filled with [PAD] in
segments of their own, each within the cap, so that every row belongs to a segment (kernels leave rows behind the last
border unwritten) and nobody attends to filler. No loss falls on it and it is not counted as real tokens.

Legend: T packed tokens, S segments, M masked positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from padless.data.batch import PackedBatch


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


def collate(blocks: Sequence[MaskedBlock], block_tokens: int, max_seq_len: int, pad_id: int) -> PackedBatch:
    """Return the microbatch of ``blocks``, in their order.

    Args:
        blocks: at least one masked block.
        block_tokens: tokens a block takes in the batch; T = len(blocks) x block_tokens.
        max_seq_len: cap on a filler segment.
        pad_id: id that filler is made of.
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
    return PackedBatch(
        input_ids_T=torch.from_numpy(input_ids_T),
        cu_seqlens_S1=torch.from_numpy(cu_seqlens_S1),
        masked_positions_M=torch.from_numpy(np.concatenate(positions)),
        labels_M=torch.from_numpy(np.concatenate(labels)),
        segment_lengths=tuple(lengths),
        max_seqlen=max(lengths),
        num_real_tokens=sum(masked.input_ids_T.shape[0] for masked in blocks),
    )
