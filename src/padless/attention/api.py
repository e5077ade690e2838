"""The attention seam: what every backend takes and promises, and what they share about a batch.

A backend is a function ``attend(qkv_T3NH, layout, window_tokens) -> out_TNH``. Each token attends to the tokens of its
own segment, in a window of ``window_tokens // 2`` to each side (both ends included), or to all of them where
``window_tokens`` is None. Scores are scaled by H ** -0.5; queries and keys arrive already rotated. Which backend runs
is chosen once, in :mod:`padless.attention.select`; nobody else asks.

Legend: T packed tokens, S segments incl. filler, N heads, H head width, 3 = query, key, value.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")


class SegmentLayout:
    """Where the segments of one batch lie, and what the backends derive from it: computed once, used by all layers.

    Everything is derived from the host's copy of the lengths, so nothing waits for a device.

    Args:
        cu_seqlens_S1: int32 [S + 1] borders of the segments, from 0 to T, on the device of the batch.
        segment_lengths: the same borders as lengths, each at least 1.

    Raises:
        ValueError: no segment, an empty segment, or a number of borders that does not fit.
    """

    def __init__(self, cu_seqlens_S1: Tensor, segment_lengths: tuple[int, ...]) -> None:
        if not segment_lengths or min(segment_lengths) < 1:
            raise ValueError(
                f"segment_lengths={segment_lengths} must name at least one segment, each of 1 token or more"
            )
        if cu_seqlens_S1.shape != (len(segment_lengths) + 1,):
            raise ValueError(
                f"cu_seqlens_S1 has shape {tuple(cu_seqlens_S1.shape)}, but {len(segment_lengths)} segments need "
                f"{len(segment_lengths) + 1} borders"
            )
        self.cu_seqlens_S1 = cu_seqlens_S1
        self.segment_lengths = segment_lengths
        self.lengths_S = np.asarray(segment_lengths, dtype=np.int64)
        self.starts_S = np.cumsum(self.lengths_S) - self.lengths_S
        self.num_tokens = int(self.lengths_S.sum())
        self.max_seqlen = int(self.lengths_S.max())
        self._cache: dict[Hashable, Any] = {}

    @classmethod
    def from_lengths(cls, segment_lengths: tuple[int, ...], device: torch.device | str = "cpu") -> "SegmentLayout":
        """Return the layout of segments of these lengths, one after the other."""
        borders = np.concatenate([[0], np.cumsum(segment_lengths)]).astype(np.int32)
        return cls(torch.from_numpy(borders).to(device), segment_lengths)

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.cu_seqlens_S1.device

    @property
    def positions_T(self) -> Tensor:
        """int64 [T] position of each token within its segment, on the batch's device."""
        return self.cached("positions_T", lambda: self.to_device(self.host_positions_T()))

    def host_positions_T(self) -> np.ndarray:
        """int64 [T] position of each token within its segment, on the host."""
        return np.arange(self.num_tokens) - np.repeat(self.starts_S, self.lengths_S)

    def host_segment_ids_T(self) -> np.ndarray:
        """int64 [T] number of the segment each token belongs to, on the host."""
        return np.repeat(np.arange(len(self.segment_lengths)), self.lengths_S)

    def cached(self, key: Hashable, build: Callable[[], Value]) -> Value:
        """Return what ``build`` made for ``key`` when this batch first asked for it."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]

    def to_device(self, array: np.ndarray) -> Tensor:
        """Return a host array as a tensor on the batch's device; the host does not wait for the copy."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # a copy from ordinary memory would wait until the device is done
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def check(self, qkv_T3NH: Tensor) -> None:
        """Hold the one assertion of this seam: a packed tensor as long as the segments are together.

        Raises:
            ValueError: another shape.
        """
        shape = tuple(qkv_T3NH.shape)
        if len(shape) != 4 or shape[:2] != (self.num_tokens, 3):
            raise ValueError(f"qkv_T3NH has shape {shape}, expected ({self.num_tokens}, 3, heads, head width)")


class AttentionBackend(Protocol):
    """What ``attend`` of each backend looks like."""

    def __call__(self, qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
        """Return out_TNH, in the dtype of ``qkv_T3NH``, with gradients to it."""
        ...


def window_reach(window_tokens: int | None) -> int | None:
    """Return how far a token sees to each side: 128 -> 64, as in ModernBERT; None sees the whole segment."""
    return None if window_tokens is None else window_tokens // 2
