"""The one batch layout, from loader to loss: flat tokens and the borders of their segments.

Legend: T packed tokens (fixed: blocks x block_tokens), S segments incl. filler, M masked positions.
Filler is segments of its own at the end of each block: nobody else attends to them and no loss falls on them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Device microbatch of whole blocks, one after the other.

    ``segment_lengths`` repeats ``cu_seqlens_S1`` on the host, so that no backend has to read it back from a device.
    """

    input_ids_T: Tensor  # int64 [T]
    cu_seqlens_S1: Tensor  # int32 [S + 1], starts with 0, ends with T
    masked_positions_M: Tensor  # int64 [M], ascending positions in T on which loss falls
    labels_M: Tensor  # int64 [M], original ids at those positions
    segment_lengths: tuple[int, ...]
    max_seqlen: int
    num_real_tokens: int  # T less filler

    def __post_init__(self) -> None:
        if self.input_ids_T.ndim != 1 or self.labels_M.shape != self.masked_positions_M.shape:
            raise ValueError("PackedBatch needs flat input_ids_T, and labels_M as long as masked_positions_M")
        if len(self.segment_lengths) + 1 != self.cu_seqlens_S1.shape[0]:
            raise ValueError("segment_lengths and cu_seqlens_S1 disagree on the number of segments")

    @property
    def num_masked(self) -> int:
        """Number of positions the loss is a mean over."""
        return int(self.labels_M.shape[0])

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch with its tensors on ``device``."""
        return PackedBatch(
            self.input_ids_T.to(device, non_blocking=True),
            self.cu_seqlens_S1.to(device, non_blocking=True),
            self.masked_positions_M.to(device, non_blocking=True),
            self.labels_M.to(device, non_blocking=True),
            self.segment_lengths,
            self.max_seqlen,
            self.num_real_tokens,
        )
