"""The one batch layout, from loader to loss: flat tokens and the borders of their segments.

Legend: T packed tokens (fixed: blocks x block_tokens), S segments incl. filler, M masked positions, those that fill up
to a fixed number included.
Filler is segments of its own at the end of each block: nobody else attends to them and no loss falls on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Label of a row of ``labels_M`` on which no loss falls."""


@dataclass(frozen=True)
class PackedBatch:
    """Device microbatch of whole blocks, one after the other.

    ``segment_lengths`` repeats ``cu_seqlens_S1`` on the host, and ``num_masked`` is counted there, so that nothing has
    to be read back from a device. Nobody changes a batch: a deep copy (Composer makes one of each microbatch) is the
    batch itself.
    """

    input_ids_T: Tensor  # int64 [T]
    cu_seqlens_S1: Tensor  # int32 [S + 1], starts with 0, ends with T
    masked_positions_M: Tensor  # int64 [M], ascending positions in T on which loss falls, then 0 where M is filled up
    labels_M: Tensor  # int64 [M], original ids at those positions, then IGNORED where M is filled up
    segment_lengths: tuple[int, ...]
    max_seqlen: int
    num_real_tokens: int  # T less filler
    num_masked: int  # positions the loss is a mean over: rows whose label is not IGNORED

    def __post_init__(self) -> None:
        if self.input_ids_T.ndim != 1 or self.labels_M.shape != self.masked_positions_M.shape:
            raise ValueError("PackedBatch needs flat input_ids_T, and labels_M as long as masked_positions_M")
        if len(self.segment_lengths) + 1 != self.cu_seqlens_S1.shape[0]:
            raise ValueError("segment_lengths and cu_seqlens_S1 disagree on the number of segments")
        if not 0 <= self.num_masked <= self.labels_M.shape[0]:
            raise ValueError(f"num_masked={self.num_masked} is not between 0 and the {self.labels_M.shape[0]} labels")

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedBatch":
        return self

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch with its tensors on ``device``; from pinned memory the host does not wait for the copy."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "PackedBatch":
        """Return the batch in page-locked memory, from which a CUDA device copies by itself. Needs a CUDA device."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        return replace(
            self,
            input_ids_T=change(self.input_ids_T),
            cu_seqlens_S1=change(self.cu_seqlens_S1),
            masked_positions_M=change(self.masked_positions_M),
            labels_M=change(self.labels_M),
        )
