"""A workload's documents as tensors: packed for us, padded for a peer.

Legend: T packed tokens, B rows, L places a row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from padless.bench.lengths import PAD, Workload
from padless.data.batch import IGNORED, PackedBatch
from padless.data.collate import Block, MaskedBlock, collate


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of documents, padded to the longest."""

    input_ids_BL: Tensor  # int64
    attention_mask_BL: Tensor  # int64, 1 for real tokens
    labels_BL: Tensor  # int64, IGNORED where no loss falls


def packed_batch(workload: Workload, number: int, block_tokens: int, pad_masked_to: int | None = None) -> PackedBatch:
    """Return batch ``number`` of ours: one block, made as the loader makes it; masked rows filled up to so many."""
    documents = [workload.documents[each] for each in workload.packed[number]]
    lengths_S = np.array([len(each.tokens_T) for each in documents], dtype=np.int32)
    starts = (np.cumsum(lengths_S) - lengths_S).tolist()
    tokens_T = np.concatenate([each.tokens_T for each in documents])
    input_ids_T = np.concatenate([each.input_ids_T for each in documents])
    positions_M = np.concatenate([each.positions_M + start for each, start in zip(documents, starts, strict=True)])
    masked = MaskedBlock(Block("bench", number, tokens_T, lengths_S), input_ids_T, positions_M)
    return collate([masked], block_tokens, workload.max_seq_len, PAD, pad_masked_to)


def padded_batch(workload: Workload, numbers: list[int]) -> PaddedBatch:
    """Return these documents as one padded batch."""
    shape = len(numbers), max(workload.lengths(numbers))
    input_ids_BL = np.full(shape, PAD, dtype=np.int64)
    labels_BL = np.full(shape, IGNORED, dtype=np.int64)
    attention_mask_BL = np.zeros(shape, dtype=np.int64)
    for row, number in enumerate(numbers):
        document = workload.documents[number]
        input_ids_BL[row, : len(document.input_ids_T)] = document.input_ids_T
        attention_mask_BL[row, : len(document.input_ids_T)] = 1
        labels_BL[row, document.positions_M] = document.tokens_T[document.positions_M]
    return PaddedBatch(*(torch.from_numpy(each) for each in (input_ids_BL, attention_mask_BL, labels_BL)))


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
